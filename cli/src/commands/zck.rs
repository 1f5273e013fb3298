//! `taipan zck`: creates, extracts and compares zchunk files.

use std::{
    fs::File,
    io::{BufReader, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;
use taipan_zchunk::{
    Buzhash, CostModel, Encoding, Goal, HashKind, Header, Limits, MAGIC, MAGIC_DETACHED,
    PlainIndex, Planner, Writer, WriterOptions, train_dictionary,
};
use tempfile::NamedTempFile;

use crate::{
    args::{ChunkHash, ZckCommand, ZckCreateArgs},
    error::AppError,
    exit::Exit,
    printer::{Printer, bytes, table},
};

/// How much is read at once, in bytes.
const BUFFER_SIZE: usize = 1 << 20;

pub(crate) fn run(printer: &Printer, command: &ZckCommand) -> Result<Exit, AppError> {
    match command {
        ZckCommand::Create(args) => create(printer, args)?,
        ZckCommand::Extract { file, output } => extract(printer, file, output.as_deref())?,
        ZckCommand::Info { file, chunks } => info(printer, file, *chunks)?,
        ZckCommand::Delta { old, new } => delta(printer, old, new)?,
    }
    Ok(Exit::Done)
}

fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> AppError {
    let path = path.to_owned();
    move |source| AppError::ReadFile { path, source }
}

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> AppError {
    let path = path.to_owned();
    move |source| AppError::WriteFile { path, source }
}

fn zck_error(path: &Path) -> impl FnOnce(taipan_zchunk::Error) -> AppError {
    let path = path.to_owned();
    move |source| AppError::Zchunk {
        path,
        source: Box::new(source),
    }
}

fn open(path: &Path) -> Result<File, AppError> {
    File::open(path).map_err(read_error(path))
}

/// A temporary file in the directory of `path`. The file gets its final name when it is complete.
fn temporary_file(path: &Path) -> Result<NamedTempFile, AppError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    NamedTempFile::new_in(dir).map_err(write_error(path))
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), AppError> {
    use std::os::unix::fs::PermissionsExt as _;
    // A temporary file is readable by its owner only.
    let permissions = std::fs::Permissions::from_mode(0o644);
    file.as_file()
        .set_permissions(permissions)
        .map_err(write_error(path))?;
    file.persist(path)
        .map_err(|error| write_error(path)(error.error))?;
    Ok(())
}

fn create(printer: &Printer, args: &ZckCreateArgs) -> Result<(), AppError> {
    #[derive(Serialize)]
    struct Created<'a> {
        file: &'a Path,
        bytes: u64,
        content_bytes: u64,
        chunks: usize,
        header_bytes: u64,
    }
    let output = args.output.clone().unwrap_or_else(|| {
        let mut name = args.file.clone().into_os_string();
        name.push(".zck");
        PathBuf::from(name)
    });
    let mut options = options(args)?;
    // Splitting and training need the whole content in memory.
    let mut input = open(&args.file)?;
    let whole = if args.split.is_some() || args.train_dictionary.is_some() {
        let mut content = Vec::new();
        input
            .read_to_end(&mut content)
            .map_err(read_error(&args.file))?;
        Some(content)
    } else {
        None
    };
    let parts: Vec<&[u8]> = match (&whole, &args.split) {
        (Some(content), Some(text)) => split(content, text.as_bytes()),
        (Some(content), None) => content.chunks(32 << 10).collect(),
        (None, _) => Vec::new(),
    };
    if let Some(size) = args.train_dictionary {
        let dictionary = train_dictionary(&parts, size).map_err(zck_error(&args.file))?;
        options = options.with_dictionary(dictionary);
    }
    let spool = tempfile::tempfile().map_err(write_error(&output))?;
    let failed = || zck_error(&args.file);
    let mut writer = Writer::with_spool(options, spool).map_err(failed())?;
    if whole.is_some() {
        for part in parts {
            writer.push(part).map_err(failed())?;
            if args.split.is_some() {
                writer.end_chunk().map_err(failed())?;
            }
        }
    } else {
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            match input.read(&mut buffer).map_err(read_error(&args.file))? {
                0 => break,
                read => writer.push(&buffer[..read]).map_err(failed())?,
            }
        }
    }
    let mut file = temporary_file(&output)?;
    let written = writer.finish(&mut file).map_err(zck_error(&output))?;
    if let Some(path) = &args.detached_header {
        let mut header = temporary_file(path)?;
        header
            .write_all(&written.detached())
            .map_err(write_error(path))?;
        persist(header, path)?;
    }
    persist(file, &output)?;
    let header = written.header();
    printer.say(&format!(
        "{}: {} from {} in {} chunks, header {}",
        output.display(),
        bytes(header.file_len()),
        bytes(header.raw_len()),
        header.chunk_count() - 1,
        bytes(header.len())
    ));
    printer.object(
        "zck-created",
        &Created {
            file: &output,
            bytes: header.file_len(),
            content_bytes: header.raw_len(),
            chunks: header.chunk_count() - 1,
            header_bytes: header.len(),
        },
    );
    Ok(())
}

/// The options of the writer, without a dictionary that is yet to be trained.
fn options(args: &ZckCreateArgs) -> Result<WriterOptions, AppError> {
    let mut options = WriterOptions::default();
    if let Some(hash) = args.chunk_hash {
        options = options.with_chunk_hash(match hash {
            ChunkHash::Sha1 => HashKind::Sha1,
            ChunkHash::Sha256 => HashKind::Sha256,
            ChunkHash::Sha512 => HashKind::Sha512,
            ChunkHash::Sha512_128 => HashKind::Sha512_128,
        });
    }
    match (args.store, args.level) {
        (true, _) => options = options.with_encoding(Encoding::None),
        (false, Some(level)) => options = options.with_encoding(Encoding::zstd(level)),
        (false, None) => {}
    }
    if args.uncompressed_source {
        options = options.with_uncompressed_source();
    }
    if args.split.is_some() {
        options = options.with_manual_boundaries();
    }
    if let Some(path) = &args.dictionary {
        options = options.with_dictionary(std::fs::read(path).map_err(read_error(path))?);
    }
    Ok(options)
}

/// Splits the content before each occurrence of `text`.
fn split<'a>(content: &'a [u8], text: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut from = 1;
    while !text.is_empty() && from + text.len() <= content.len() {
        let Some(found) = content[from..].windows(text.len()).position(|w| w == text) else {
            break;
        };
        parts.push(&content[start..from + found]);
        start = from + found;
        from = start + text.len();
    }
    parts.push(&content[start..]);
    parts
}

fn extract(printer: &Printer, path: &Path, output: Option<&Path>) -> Result<(), AppError> {
    #[derive(Serialize)]
    struct Extracted<'a> {
        file: &'a Path,
        bytes: u64,
    }
    let mut input = BufReader::with_capacity(BUFFER_SIZE, open(path)?);
    if output == Some(Path::new("-")) {
        // The last chunks are verified after the first ones are written: the exit code decides.
        let mut stdout = std::io::stdout().lock();
        return match taipan_zchunk::extract(&mut input, &mut stdout, &Limits::default()) {
            // The reader has closed the pipe.
            Err(taipan_zchunk::Error::Write(error))
                if error.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                Ok(())
            }
            result => result.map(drop).map_err(zck_error(path)),
        };
    }
    let output = match output {
        Some(output) => output.to_owned(),
        None if path.extension().is_some_and(|extension| extension == "zck") => {
            path.with_extension("")
        }
        None => {
            return Err(AppError::NoOutputName {
                path: path.to_owned(),
            });
        }
    };
    let mut file = temporary_file(&output)?;
    let header = taipan_zchunk::extract(&mut input, &mut file, &Limits::default())
        .map_err(zck_error(path))?;
    persist(file, &output)?;
    printer.say(&format!(
        "{}: {}",
        output.display(),
        bytes(header.raw_len())
    ));
    let extracted = Extracted {
        file: &output,
        bytes: header.raw_len(),
    };
    printer.object("zck-extracted", &extracted);
    Ok(())
}

/// Reads the header of a zchunk file, or a detached header.
fn read_header(path: &Path) -> Result<Header, AppError> {
    let mut file = BufReader::new(open(path)?);
    taipan_zchunk::read_header(&mut file, &Limits::default()).map_err(zck_error(path))
}

fn info(printer: &Printer, path: &Path, chunks: bool) -> Result<(), AppError> {
    #[derive(Serialize)]
    struct Info<'a> {
        file: &'a Path,
        detached: bool,
        header_bytes: u64,
        bytes: u64,
        content_bytes: u64,
        chunks: usize,
        dictionary_bytes: u64,
        checksum: String,
        chunk_checksum: String,
        compression: String,
        streams: bool,
        uncompressed_source: bool,
        elements: usize,
        header_digest: String,
        data_digest: Option<String>,
    }
    let header = read_header(path)?;
    let dictionary = header.dictionary().map_or(0, |chunk| chunk.len);
    let info = Info {
        file: path,
        detached: header.is_detached(),
        header_bytes: header.len(),
        bytes: header.file_len(),
        content_bytes: header.raw_len(),
        chunks: header.chunk_count() - 1,
        dictionary_bytes: dictionary,
        checksum: header.hash().to_string(),
        chunk_checksum: header.chunk_hash().to_string(),
        compression: header.compression().to_string(),
        streams: header.has_streams(),
        uncompressed_source: header.has_uncompressed_source(),
        elements: header.elements().len(),
        header_digest: header.digest().to_string(),
        data_digest: header.data_digest().map(ToString::to_string),
    };
    let yes = |set: bool| if set { "yes" } else { "no" }.to_owned();
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let none = || "none".to_owned();
    let rows = vec![
        row(
            "header",
            format!(
                "{}{}",
                bytes(info.header_bytes),
                if info.detached { ", detached" } else { "" }
            ),
        ),
        row(
            "header digest",
            format!("{}:{}", info.checksum, info.header_digest),
        ),
        row("file", bytes(info.bytes)),
        row("content", bytes(info.content_bytes)),
        row("data digest", info.data_digest.clone().unwrap_or_else(none)),
        row("chunks", info.chunks.to_string()),
        row("chunk checksum", info.chunk_checksum.clone()),
        row("compression", info.compression.clone()),
        row(
            "dictionary",
            if dictionary == 0 {
                none()
            } else {
                bytes(dictionary)
            },
        ),
        row("content digests", yes(info.uncompressed_source)),
        row("streams", yes(info.streams)),
        row("optional elements", info.elements.to_string()),
    ];
    printer.data(&table(&rows, &[1]));
    printer.object("zck", &info);
    if chunks {
        list_chunks(printer, &header);
    }
    Ok(())
}

fn list_chunks(printer: &Printer, header: &Header) {
    #[derive(Serialize)]
    struct ChunkLine {
        index: usize,
        digest: String,
        content_digest: Option<String>,
        offset: u64,
        bytes: u64,
        content_bytes: u64,
    }
    let head = ["chunk", "digest", "offset", "bytes", "content"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for chunk in header.chunks() {
        let digest = chunk.digest.to_string();
        let line = ChunkLine {
            index: chunk.index,
            digest: digest.clone(),
            content_digest: chunk.raw_digest.as_ref().map(ToString::to_string),
            offset: chunk.offset,
            bytes: chunk.len,
            content_bytes: chunk.raw_len,
        };
        printer.object("zck-chunk", &line);
        let numbers = [chunk.offset, chunk.len, chunk.raw_len].map(|n| n.to_string());
        rows.push([vec![chunk.index.to_string(), digest], numbers.to_vec()].concat());
    }
    printer.data(&table(&rows, &[1]));
}

fn delta(printer: &Printer, old: &Path, new: &Path) -> Result<(), AppError> {
    #[derive(Serialize)]
    struct Delta {
        header_bytes: u64,
        chunks: usize,
        missing_chunks: usize,
        missing_bytes: u64,
        fetch_bytes: u64,
        ranges: usize,
        update_bytes: u64,
        full_bytes: u64,
        worthwhile: bool,
    }
    let target = read_header(new)?;
    // With digests of the content, chunks with another compressed form can be reused.
    let goal = if target.has_uncompressed_source() {
        Goal::Content
    } else {
        Goal::File
    };
    let mut planner = Planner::new(&target, goal);
    let mut magic = Vec::new();
    let mut file = open(old)?;
    (&mut file)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .map_err(read_error(old))?;
    if magic == MAGIC || magic == MAGIC_DETACHED {
        planner.add_file(&read_header(old)?);
    } else {
        file.rewind().map_err(read_error(old))?;
        let mut file = BufReader::with_capacity(BUFFER_SIZE, file);
        let plain = PlainIndex::new(&mut file, &target, Buzhash::default());
        planner.add_plain(&plain.map_err(zck_error(old))?);
    }
    let plan = planner.plan(&CostModel::default());
    let delta = Delta {
        header_bytes: target.len(),
        chunks: target.chunk_count() - 1,
        missing_chunks: plan.missing_chunks(),
        missing_bytes: plan.missing_bytes(),
        fetch_bytes: plan.fetch_bytes(),
        ranges: plan.ranges().len(),
        update_bytes: plan.update_bytes(),
        full_bytes: plan.full_bytes(),
        worthwhile: plan.is_worthwhile(),
    };
    #[expect(clippy::cast_precision_loss, reason = "only a few digits are printed")]
    let share = 100.0 * delta.update_bytes as f64 / (delta.full_bytes.max(1)) as f64;
    printer.data(&format!(
        "{} of {} chunks to download, {} bytes in {} ranges; with the header {} of {} bytes ({share:.1} %){}",
        delta.missing_chunks,
        delta.chunks,
        delta.fetch_bytes,
        delta.ranges,
        delta.update_bytes,
        delta.full_bytes,
        if delta.worthwhile {
            ""
        } else {
            "; downloading the whole file is cheaper"
        }
    ));
    printer.object("zck-delta", &delta);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_split_before_each_occurrence() {
        let parts = |content: &str, text: &str| -> Vec<String> {
            let parts = split(content.as_bytes(), text.as_bytes());
            parts
                .iter()
                .map(|p| String::from_utf8(p.to_vec()).unwrap())
                .collect()
        };
        assert_eq!(parts("aXbXcX", "X"), ["a", "Xb", "Xc", "X"]);
        assert_eq!(parts("XaX", "X"), ["Xa", "X"]);
        assert_eq!(parts("aaab", "aab"), ["a", "aab"]);
        assert_eq!(parts("abc", ""), ["abc"]);
        assert_eq!(parts("", "x"), [""]);
    }
}
