//! Writes the matrix as a document.

use std::fmt::Write as _;

use crate::{
    cell::{Cell, Company, Phase, Protocol},
    expected::{self, End, Waste},
    fault::Fault,
    run::Seen,
};

pub(crate) const HEAD: &str = "# Outcome of each fault, by protocol and phase

The tests in `transfer/tests/faults` write this file. They run every cell with real sockets, and fail
if an outcome differs. To write it again: `TAIPAN_BLESS=1 cargo test -p taipan-transfer --test faults`.

In each cell one file is fetched to a path, once from the faulty mirror alone and once with a second
mirror that is sound. The digest of the file is known, except in the row that says otherwise. In no
cell does a wrong file have the final name.

- **first request**: the mirror has the fault from the first request on, permanently. A fault of the
  body affects every body.
- **mid-body**: the mirror has the fault from the middle of the first body on, permanently. A fault of
  the body affects this body and every later one. Any other fault affects every later request, after
  the first body has broken off.
- **resumed**: a body has broken off, and the request that resumes it has the fault. Alone, the mirror
  has the fault once. With a second mirror, the body of the sound mirror breaks off, and the other
  mirror has the fault permanently.

`ok` means that the file was verified. Otherwise the cell has the class of the error
(`ARCHITECTURE.md`, \"Mirrors\") and, in parentheses, the errors of the attempts. The wasted bytes
follow. `kept` means that the partial of a file in segments is kept, and the next call resumes it.
`ok or` a class means that the outcome depends on how many segments are under way when the fault
begins.
";

type Result<'s> = (Cell, std::result::Result<Seen, &'s str>);

pub(crate) fn tables(size: usize, name: &str, results: &[Result<'_>]) -> String {
    let mut text = format!("\n## Files of {name}\n");
    for protocol in Protocol::ALL {
        let _ = write!(
            text,
            "\n### {}\n\n| fault | first request | with a second mirror | mid-body | with a second \
             mirror | resumed | with a second mirror |\n| --- | --- | --- | --- | --- | --- | --- |\n",
            protocol.name()
        );
        for fault in Fault::ALL {
            let _ = write!(text, "| {} |", fault.name());
            for phase in Phase::ALL {
                for company in Company::ALL {
                    let cell = results.iter().find(|(cell, _)| {
                        (
                            cell.size,
                            cell.protocol,
                            cell.fault,
                            cell.phase,
                            cell.company,
                        ) == (size, protocol, fault, phase, company)
                    });
                    let cell = cell.map(|(cell, seen)| write_cell(cell, seen));
                    let _ = write!(text, " {} |", cell.unwrap_or_default());
                }
            }
            text.push('\n');
        }
    }
    text
}

fn write_cell(cell: &Cell, seen: &std::result::Result<Seen, &str>) -> String {
    let seen = match seen {
        Ok(seen) => seen,
        Err(why) => return format!("not applicable: {why}"),
    };
    let (end, waste) = expected::expected(cell);
    let wasted = match waste {
        Waste::Exactly(bytes) => kib(bytes),
        Waste::UpTo(most) => format!("at most {}", kib(most)),
        Waste::Kept => "kept".to_owned(),
    };
    let of = |class| {
        let mut errors: Vec<&str> = Vec::new();
        for (_, error) in seen
            .end
            .as_ref()
            .err()
            .into_iter()
            .flatten()
            .filter(|(seen, _)| *seen == class)
        {
            if !errors.contains(&error.as_str()) {
                errors.push(error);
            }
        }
        errors.join(", ")
    };
    match end {
        End::Right => format!("ok, {wasted}"),
        End::Wrong(class) => format!("{class} ({}), {wasted}", of(class)),
        End::Either(class) => format!("ok or {class}, {wasted}"),
    }
}

fn kib(bytes: u64) -> String {
    match (bytes, bytes % 1024) {
        (0, _) => "0".to_owned(),
        (_, 0) => format!("{} KiB", bytes / 1024),
        _ => format!("{bytes} bytes"),
    }
}

/// The lines in which two texts differ; `None` if they are equal.
pub(crate) fn difference(written: &str, is: &str) -> Option<String> {
    if written == is {
        return None;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (written.lines().collect(), is.lines().collect());
    let only = |these: &[&str], those: &[&str], mark: &str| -> Vec<String> {
        let missing = these.iter().filter(|line| !those.contains(line));
        missing.map(|line| format!("{mark} {line}")).collect()
    };
    let mut lines = only(&old, &new, "-");
    lines.extend(only(&new, &old, "+"));
    if lines.is_empty() {
        lines.push("the lines are in another order".to_owned());
    }
    Some(lines.join("\n"))
}
