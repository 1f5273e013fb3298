//! The matrix as a document.

use std::fmt::Write as _;

use crate::{
    cell::{Cell, Company, Phase, Protocol},
    expected::{self, End, Waste},
    fault::Fault,
    run::Seen,
};

pub(crate) const HEAD: &str = "# What comes of every fault

Written by `transfer/tests/faults`, which runs every cell over real sockets and fails when one ends
otherwise. To write it anew: `TAIPAN_BLESS=1 cargo test -p taipan-transfer --test faults`.

A file is fetched to a path, once from the faulty mirror alone and once with a sound second mirror.
Its digest is known, but in the row that says otherwise. In no cell does a wrong file ever have the
final name.

- **first request**: the mirror has the fault from the beginning, and for good. Where a body is
  struck, every body is.
- **mid-body**: the mirror turns bad in the middle of the first body, for good. Where a body is
  struck, it is this one and every other; otherwise it breaks off, and what is asked for next has the
  fault.
- **resumed**: a body has broken off, and the request that continues it has the fault. Alone the
  mirror has it once and is sound again; in company the sound mirror is the one whose body broke off,
  and the other has the fault for good.

`ok` is a file that was verified. An error is given by the class that decides what follows from it
(`ARCHITECTURE.md`, \"Mirrors\") and by what was wrong in the attempts. After it stands how many bytes
were fetched in vain; of a file that comes in segments, what has arrived is `kept` for the next
attempt. `ok or` an error is where it depends on how many segments are under way when the fault sets
in.
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

/// The lines in which two texts differ.
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
