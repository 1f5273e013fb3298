//! Speed and size compared with the C tools: `speed compare FILE [RUNS]`.
//!
//! The runs alternate, so that other load affects both. `speed create IN OUT`,
//! `speed extract IN OUT` and `speed delta OLD NEW` are the compared programs, minimal
//! equivalents of `zck`, `unzck` and `zck_delta_size`.

#![allow(clippy::cast_precision_loss, reason = "figures are for people")]

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use taipan_zchunk::{
    CostModel, Goal, Header, Limits, Planner, Writer, WriterOptions, extract, read_header,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(|word| &word[..]).collect();
    match words[..] {
        ["create", from, to] => create(from, to),
        ["extract", from, to] => {
            let mut out = BufWriter::with_capacity(128 << 10, File::create(to)?);
            extract(
                &mut BufReader::new(File::open(from)?),
                &mut out,
                &Limits::default(),
            )?;
            Ok(out.flush()?)
        }
        ["delta", old, new] => delta(old, new),
        ["compare", file] => compare(file, 5),
        ["compare", file, runs] => compare(file, runs.parse()?),
        _ => Err("speed create|extract|delta|compare FILE...".into()),
    }
}

fn create(from: &str, to: &str) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(to).parent().unwrap_or(Path::new("."));
    let spool = tempfile::tempfile_in(folder)?;
    let mut writer = Writer::with_spool(WriterOptions::default(), spool)?;
    let mut input = File::open(from)?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let got = input.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        writer.push(&buffer[..got])?;
    }
    let mut out = File::create(to)?;
    writer.finish(&mut out)?;
    Ok(())
}

fn delta(old: &str, new: &str) -> Result<(), Box<dyn Error>> {
    let (old, new) = (header(old)?, header(new)?);
    let mut planner = Planner::new(&new, Goal::File);
    planner.add_file(&old);
    let plan = planner.plan(&CostModel::BYTES_ONLY);
    writeln!(
        std::io::stdout(),
        "{} of {} bytes, {} of {} chunks, {} ranges",
        plan.update_bytes(),
        plan.full_bytes(),
        plan.missing_chunks(),
        new.chunk_count(),
        plan.ranges().len(),
    )?;
    Ok(())
}

fn header(path: &str) -> Result<Header, Box<dyn Error>> {
    Ok(read_header(
        &mut BufReader::new(File::open(path)?),
        &Limits::default(),
    )?)
}

/// Time and peak memory of one run.
#[derive(Clone, Copy)]
struct Run {
    time: Duration,
    peak_kib: u64,
}

fn run(program: &str, arguments: &[&str]) -> Result<Run, Box<dyn Error>> {
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    loop {
        // The high-water mark only grows, so the last sample counts.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak_kib = peak_kib.max(value.unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            let time = start.elapsed();
            if !status.success() {
                return Err(format!("{program} {arguments:?}: {status}").into());
            }
            return Ok(Run { time, peak_kib });
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The name, the C tool with arguments, and the program of this crate with arguments.
type Job<'a> = (&'a str, &'a str, Vec<&'a str>, &'a str, Vec<&'a str>);

fn compare(file: &str, runs: usize) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let this = std::env::current_exe()?.to_string_lossy().into_owned();
    let (ours, theirs, changed) = (at("ours.zck"), at("theirs.zck"), at("changed.zck"));
    let extracted = at("extracted");
    std::env::set_current_dir(folder.path())?;

    let mut content = std::fs::read(file)?;
    let len = content.len();
    let step = (len / 100).max(1);
    content
        .iter_mut()
        .skip(step / 2)
        .step_by(step)
        .for_each(|byte| *byte ^= 1);
    std::fs::write(at("changed"), content)?;
    create(&at("changed"), &changed)?;

    let mut out = std::io::stdout().lock();
    let jobs: [Job<'_>; 3] = [
        (
            "create",
            "zck",
            vec!["-o", &theirs, file],
            &this,
            vec!["create", file, &ours],
        ),
        (
            "extract",
            "unzck",
            vec![&theirs],
            &this,
            vec!["extract", &theirs, &extracted],
        ),
        (
            "delta",
            "zck_delta_size",
            vec![&ours, &changed],
            &this,
            vec!["delta", &ours, &changed],
        ),
    ];
    writeln!(
        out,
        "{file}: {len} bytes, {runs} runs each, in turns; medians"
    )?;
    for (what, c_tool, c_arguments, us, our_arguments) in jobs {
        let (mut c, mut o) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            c.push(run(c_tool, &c_arguments)?);
            o.push(run(us, &our_arguments)?);
        }
        if what == "extract" && std::fs::read(&extracted)? != std::fs::read(at("theirs"))? {
            return Err("the two extracted different things".into());
        }
        let median = |runs: &mut Vec<Run>| {
            runs.sort_by_key(|run| run.time);
            let peak = runs.iter().map(|run| run.peak_kib).max().unwrap_or(0);
            Run {
                time: runs[runs.len() / 2].time,
                peak_kib: peak,
            }
        };
        let (c, o) = (median(&mut c), median(&mut o));
        writeln!(
            out,
            "{what:<8} {c_tool:<15} {:>8.1} ms {:>7} KiB   ours {:>8.1} ms {:>7} KiB   {:.2} times as fast",
            c.time.as_secs_f64() * 1e3,
            c.peak_kib,
            o.time.as_secs_f64() * 1e3,
            o.peak_kib,
            c.time.as_secs_f64() / o.time.as_secs_f64(),
        )?;
    }
    let size = |path: &str| std::fs::metadata(path).map(|meta| meta.len());
    writeln!(
        out,
        "sizes: zck {} bytes, ours {} bytes",
        size(&theirs)?,
        size(&ours)?
    )?;
    Ok(())
}
