//! The cost of following a real history: `history [DIR] [NAME=VALUE]...`
//!
//! For every `history-*.tar.zst` in a folder, whose members are versions of one JSON document (the
//! name sorts by time), this writes every version in the log layout and in sorted layouts, lets
//! followers with several intervals update, and prints the fetched bytes as a multiple of the ideal:
//! zstd-19 of the changed records alone. The last line is JSON.
//!
//! The records are the members of all objects at the top level that are named `packages*`; the rest
//! of the document is left out. Names and values of options are those of `LogOptions`.

#![allow(clippy::cast_precision_loss, reason = "ratios are for people")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use taipan_zchunk::{
    CostModel, Encoding, Follower, Frame, Goal, HashKind, Header, Limits, LogDictionary, LogFile,
    LogOptions, Planner, Writer, WriterOptions, write_log,
};

type Records = BTreeMap<String, String>;
type Failed = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let mut folder = PathBuf::from(".");
    let mut options = LogOptions::default();
    let mut sorted = true;
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            None => folder = PathBuf::from(argument),
            Some(("slack_percent", value)) => options.slack_percent = value.parse()?,
            Some(("max_chunk", value)) => options.max_chunk = value.parse()?,
            Some(("min_chunk", value)) => options.min_chunk = value.parse()?,
            Some(("level", value)) => options.encoding = Encoding::zstd(value.parse()?),
            Some(("dictionary", "0")) => options.dictionary = LogDictionary::None,
            Some(("dictionary", value)) => {
                options.dictionary = LogDictionary::Trained(value.parse()?);
            }
            Some(("sorted", value)) => sorted = value.parse()?,
            Some((name, _)) => return Err(format!("no option is called {name}").into()),
        }
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("history-") && name.ends_with(".tar.zst")
    });
    paths.sort();
    let mut lines = Vec::new();
    for path in &paths {
        lines.push(history(path, &options, sorted)?);
    }
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn frame() -> Frame {
    Frame::json(b"{\"records\":{\n", b"\n}}\n")
}

/// The versions of a history, each of which differs from the one before.
fn versions(path: &Path) -> Result<Vec<Records>, Failed> {
    let mut decoder = zstd::Decoder::new(File::open(path)?)?;
    decoder.window_log_max(31)?;
    let mut archive = tar::Archive::new(decoder);
    let mut members = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if Path::new(&name)
            .extension()
            .is_some_and(|end| end == "json")
        {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            let document: serde_json::Value = serde_json::from_slice(&bytes)?;
            members.insert(name, records_of(&document));
        }
    }
    let mut versions: Vec<Records> = members.into_values().collect();
    versions.dedup();
    Ok(versions)
}

fn records_of(document: &serde_json::Value) -> Records {
    let groups = document.as_object().into_iter().flatten();
    groups
        .filter(|(name, _)| name.starts_with("packages"))
        .filter_map(|(_, group)| group.as_object())
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{}:{value}", serde_json::json!(key))))
        .collect()
}

fn zstd_19(bytes: &[u8]) -> u64 {
    zstd::bulk::compress(bytes, 19).map_or(0, |frame| frame.len() as u64)
}

/// The size of zstd-19 of the records of `new` that `old` does not have.
fn ideal(old: &Records, new: &Records) -> u64 {
    let changed: Vec<&str> = new
        .iter()
        .filter(|(key, record)| old.get(*key) != Some(*record))
        .map(|(_, record)| &record[..])
        .collect();
    if changed.is_empty() {
        0
    } else {
        zstd_19(changed.join(",\n").as_bytes())
    }
}

fn next_file(
    previous: Option<&LogFile>,
    records: &Records,
    options: &LogOptions,
) -> Result<Vec<u8>, Failed> {
    let mut file = Vec::new();
    let records = records.values().map(String::as_bytes);
    write_log(previous, &frame(), records, options, &mut file)?;
    Ok(file)
}

fn read(file: &[u8]) -> Result<LogFile, taipan_zchunk::Error> {
    LogFile::read(&mut &file[..], &Limits::default())
}

/// The cost of one update, measured by doing it.
fn follow(old: &LogFile, file: &[u8]) -> Result<(u64, u32), taipan_zchunk::Error> {
    let target = Header::parse(file, &Limits::default())?;
    let mut bytes = target.len();
    let mut rounds = 0;
    let mut follower = Follower::new(old, target)?;
    while !follower.is_complete() {
        let plan = follower.plan(&CostModel::BYTES_ONLY);
        rounds += 1;
        bytes += plan.fetch_bytes();
        for range in plan.ranges() {
            let range =
                usize::try_from(range.start).unwrap_or(0)..usize::try_from(range.end).unwrap_or(0);
            follower.push_range(range.start as u64, &file[range])?;
        }
        follower.derive()?;
    }
    let new = follower.finish()?;
    // `finish` has verified every chunk.
    debug_assert!(serde_json::from_slice::<serde_json::Value>(new.content()).is_ok());
    Ok((bytes, rounds))
}

struct Jumps {
    count: usize,
    fetched: u64,
    ideal: u64,
    worst: f64,
    second_rounds: usize,
}

fn jumps(versions: &[Records], files: &[Vec<u8>], step: usize) -> Result<Jumps, Failed> {
    let all: Vec<(u64, u64, u32)> = (0..files.len().saturating_sub(step))
        .into_par_iter()
        .map(|from| {
            let old = read(&files[from])?;
            let (bytes, rounds) = follow(&old, &files[from + step])?;
            Ok((
                bytes,
                ideal(&versions[from], &versions[from + step]),
                rounds,
            ))
        })
        .collect::<Result<_, taipan_zchunk::Error>>()?;
    Ok(Jumps {
        count: all.len(),
        fetched: all.iter().map(|jump| jump.0).sum(),
        ideal: all.iter().map(|jump| jump.1).sum(),
        worst: all
            .iter()
            .filter(|jump| jump.1 > 0)
            .map(|jump| jump.0 as f64 / jump.1 as f64)
            .fold(0.0, f64::max),
        second_rounds: all.iter().filter(|jump| jump.2 > 1).count(),
    })
}

/// The bytes that a client without knowledge of the layout fetches.
fn unaware(files: &[Vec<u8>]) -> Result<u64, taipan_zchunk::Error> {
    let headers: Vec<Header> = files
        .iter()
        .map(|file| Header::parse(file, &Limits::default()))
        .collect::<Result<_, _>>()?;
    let delta = |pair: &[Header]| {
        let mut planner = Planner::new(&pair[1], Goal::File);
        planner.add_file(&pair[0]);
        planner.plan(&CostModel::BYTES_ONLY).update_bytes()
    };
    Ok(headers.windows(2).map(delta).sum())
}

/// The sorted layout: records by key; the hash of a key decides whether a chunk ends after the record.
fn sorted_layout(versions: &[Records], every: u64) -> Result<(u64, u64), Failed> {
    let mut known: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut previous: Option<Header> = None;
    let (mut fetched, mut full) = (0, 0);
    for records in versions {
        let mut chunks = vec![frame().head];
        let mut chunk = Vec::new();
        for (n, (key, record)) in records.iter().enumerate() {
            chunk.extend_from_slice(if n > 0 { b",\n" } else { b"" });
            chunk.extend_from_slice(record.as_bytes());
            let hash = HashKind::Sha256.digest(key.as_bytes());
            let hash = hash.as_bytes()[..8]
                .iter()
                .fold(0, |n, &b| n << 8 | u64::from(b));
            if hash.is_multiple_of(every) {
                chunks.push(std::mem::take(&mut chunk));
            }
        }
        chunk.extend_from_slice(&frame().tail);
        chunks.push(chunk);
        let new: Vec<&Vec<u8>> = chunks
            .iter()
            .filter(|chunk| !known.contains_key(*chunk))
            .collect();
        let stored: Vec<Vec<u8>> = new
            .par_iter()
            .map(|chunk| zstd::bulk::compress(chunk, 19))
            .collect::<Result<_, _>>()?;
        let new: Vec<Vec<u8>> = new.into_iter().cloned().collect();
        known.extend(new.into_iter().zip(stored));
        let options = WriterOptions::default().with_manual_boundaries();
        let mut writer = Writer::new(options)?;
        for chunk in &chunks {
            writer.push_stored(chunk, &known[chunk])?;
        }
        let written = writer.finish(&mut std::io::sink())?;
        let header = written.header().clone();
        full = header.file_len();
        if let Some(previous) = &previous {
            let mut planner = Planner::new(&header, Goal::File);
            planner.add_file(previous);
            fetched += planner.plan(&CostModel::BYTES_ONLY).update_bytes();
        }
        previous = Some(header);
    }
    Ok((fetched, full))
}

/// Changes one record in twenty at once.
fn patched(records: &Records) -> Records {
    let patch = |(key, record): (&String, &String)| {
        let hash = HashKind::Sha256.digest(key.as_bytes()).as_bytes()[0];
        let record = match record.strip_suffix('}') {
            Some(open) if hash < 13 => format!("{open},\"constrains\":[\"base >={hash}\"]}}"),
            _ => record.clone(),
        };
        (key.clone(), record)
    };
    records.iter().map(patch).collect()
}

/// One line per interval of followers, and the bytes for followers of every version.
fn table(
    versions: &[Records],
    files: &[Vec<u8>],
    options: &LogOptions,
    sorted: bool,
) -> Result<(String, Jumps), Failed> {
    let mut table = String::new();
    let mut row = |what: &str, jumps: &Jumps| {
        let _ = writeln!(
            table,
            "  {what:<34} {:>5} {:>12} {:>12} {:>7.2} {:>9.2} {:>6}",
            jumps.count,
            jumps.fetched,
            jumps.ideal,
            jumps.fetched as f64 / jumps.ideal as f64,
            jumps.worst,
            jumps.second_rounds,
        );
    };
    let every = jumps(versions, files, 1)?;
    row("log, every version", &every);
    for skip in [1, 7, 30] {
        if skip + 1 < files.len() - 1 {
            row(
                &format!("log, skipping {skip}"),
                &jumps(versions, files, skip + 1)?,
            );
        }
    }
    row(
        "log, from the first to the last",
        &jumps(versions, files, files.len() - 1)?,
    );
    let last_file = &files[files.len() - 1];
    let last_records = &versions[versions.len() - 1];
    let pair = [last_records.clone(), patched(last_records)];
    let patch_file = next_file(Some(&read(last_file)?), &pair[1], options)?;
    row(
        "log, 5 % patched at once",
        &jumps(&pair, &[last_file.clone(), patch_file], 1)?,
    );
    let plain = |fetched| Jumps {
        fetched,
        worst: 0.0,
        second_rounds: 0,
        ..every
    };
    row("log, for clients unaware of it", &plain(unaware(files)?));
    if sorted {
        for records in [16, 64] {
            let (fetched, full) = sorted_layout(versions, records)?;
            row(
                &format!("sorted, {records} per chunk ({full} full)"),
                &plain(fetched),
            );
        }
    }
    Ok((table, every))
}

fn history(path: &Path, options: &LogOptions, sorted: bool) -> Result<String, Failed> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name
        .trim_start_matches("history-")
        .trim_end_matches(".tar.zst");
    let versions = versions(path)?;
    let (Some(last_records), true) = (versions.last(), versions.len() > 1) else {
        return Err(format!("{name} has no two versions").into());
    };
    let mut files: Vec<Vec<u8>> = Vec::new();
    for records in &versions {
        let previous = files.last().map(|file| read(file)).transpose()?;
        files.push(next_file(previous.as_ref(), records, options)?);
    }
    let (table, every) = table(&versions, &files, options, sorted)?;
    let last = read(&files[files.len() - 1])?;
    // The file compared with one stream of the same content, at ten versions and the last.
    let mut samples: Vec<usize> = (0..10).map(|n| n * (files.len() - 1) / 9).collect();
    samples.dedup();
    let fulls: Vec<(u64, u64)> = samples
        .par_iter()
        .map(|&n| {
            let content = read(&files[n]).map(|file| zstd_19(file.content()));
            content.map(|plain| (files[n].len() as u64, plain))
        })
        .collect::<Result<_, _>>()?;
    let full_ratio = fulls
        .iter()
        .map(|&(ours, plain)| ours as f64 / plain as f64)
        .sum::<f64>()
        / fulls.len() as f64;
    let worst_full = fulls
        .iter()
        .map(|&(a, b)| a as f64 / b as f64)
        .fold(0.0, f64::max);
    let ratio = every.fetched as f64 / every.ideal as f64;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{name}: {} versions, {} records at the end; full file {} bytes, header {} bytes, {} chunks, \
         dictionary {} bytes; full file / zstd-19: {full_ratio:.3} on average, {worst_full:.3} at worst, {:.3} at the end",
        files.len(),
        last_records.len(),
        files[files.len() - 1].len(),
        last.header().len(),
        last.header().chunk_count(),
        last.header().chunk(0).len,
        fulls[fulls.len() - 1].0 as f64 / fulls[fulls.len() - 1].1 as f64,
    )?;
    writeln!(
        out,
        "  {:<34} {:>5} {:>12} {:>12} {:>7} {:>9} {:>6}\n{table}",
        "", "jumps", "fetched", "ideal", "ratio", "worst", "again"
    )?;
    Ok(serde_json::json!({
        "history": name,
        "updates": every.count,
        "delta_bytes": every.fetched,
        "ideal_bytes": every.ideal,
        "ratio": (ratio * 1000.0).round() / 1000.0,
        "full_ratio": (full_ratio * 1000.0).round() / 1000.0,
    })
    .to_string())
}
