//! `repodata.json.zck`: an index as a zchunk file whose records are in the order in which they came, so that a client that has
//! an earlier one fetches little more than the new records (`zchunk/LAYOUT.md`).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Write},
    path::Path,
};

use taipan_zchunk::{Encoding, Frame, LogFile, LogOptions, write_log};

use super::{
    rewrite::{Rewrite, write_index},
    table::{Form, RecordTable, Row},
};

/// The level of compression of chunks.
const LEVEL: i32 = 12;

/// The largest head, in bytes: it is one chunk, and contains the map that is no log.
const MAX_HEAD: usize = 8 << 20;

/// The key that marks where the records belong.
const MARK: &str = "taipan-records";

/// The parts of an index: the records of its larger map, and the document around them. It needs as much memory as the index.
#[derive(Debug)]
pub(crate) struct IndexLog {
    frame: Frame,
    /// `"key":{…}`, without line breaks.
    records: Vec<Vec<u8>>,
}

impl IndexLog {
    /// Takes an index apart. `text` is the file that the table was read from. `previous` is the file that will be continued.
    ///
    /// `None` if the index cannot be a log: the smaller of its maps is larger than 8 MiB.
    pub(crate) fn of(
        table: &RecordTable,
        text: &Path,
        previous: Option<&LogFile>,
    ) -> io::Result<Option<Self>> {
        let form = previous.and_then(form_of).unwrap_or_else(|| larger(table));
        let is_of_form = |row: &Row| row.form == form;
        let rows = || table.rows().iter().filter(|row| is_of_form(row));
        let others = table.rows().iter().filter(|row| !is_of_form(row));
        if others.map(|row| row.place().1).sum::<usize>() > MAX_HEAD {
            return Ok(None);
        }
        let mut input = File::open(text)?;
        let without: BTreeSet<usize> = (table.rows().iter().enumerate())
            .filter(|(_, row)| is_of_form(row))
            .map(|(number, _)| number)
            .collect();
        let added = BTreeMap::from([((form, MARK.to_owned()), "0".to_owned())]);
        let rewrite = Rewrite {
            table,
            without: &without,
            added: &added,
            drops_base_url: false,
            drops: &[],
        };
        let mut document = Vec::new();
        write_index(&rewrite, &mut input, &mut document)?;
        let mark = format!("\"{MARK}\":0");
        let Some((head, tail)) = split_once(&document, mark.as_bytes()) else {
            return Ok(None);
        };
        if head.len() > MAX_HEAD {
            return Ok(None);
        }
        let mut records = HashMap::new();
        for row in rows() {
            let mut record = format!("\"{}\":", table.key(row)).into_bytes();
            record.extend_from_slice(&without_breaks(&RecordTable::text(row, &mut input)?));
            // As in any JSON object the last one of a key counts.
            records.insert(table.key(row), record);
        }
        Ok(Some(Self {
            frame: Frame::json(head, tail),
            records: records.into_values().collect(),
        }))
    }

    /// Whether a file is of the same index.
    pub(crate) fn is_in(&self, file: &LogFile) -> bool {
        let content = file.content();
        let ours: BTreeSet<&[u8]> = self.records.iter().map(|it| &it[..]).collect();
        let theirs: BTreeSet<&[u8]> = file.records().collect();
        content.starts_with(&self.frame.head)
            && content.ends_with(&self.frame.tail)
            && ours == theirs
    }

    /// Writes the zchunk file that continues another.
    pub(crate) fn write(
        &self,
        previous: Option<&LogFile>,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let options = LogOptions {
            encoding: Encoding::zstd(LEVEL),
            ..LogOptions::default()
        };
        let records = self.records.iter().map(|it| &it[..]);
        write_log(previous, &self.frame, records, &options, output)
            .map(|_| ())
            .map_err(io::Error::other)
    }
}

/// The map whose records an earlier file has in its log.
fn form_of(file: &LogFile) -> Option<Form> {
    let content = file.content();
    let first = file.records().next()?;
    let start = first.as_ptr() as usize - content.as_ptr() as usize;
    let head = &content[..start];
    [Form::Conda, Form::TarBz2].into_iter().find(|form| {
        let key = form.path()[0];
        head.ends_with(format!("\"{key}\":{{\n").as_bytes())
    })
}

/// The map with more bytes.
fn larger(table: &RecordTable) -> Form {
    let bytes = |form| -> usize {
        let rows = table.rows().iter().filter(|row| row.form == form);
        rows.map(|row| row.place().1).sum()
    };
    if bytes(Form::TarBz2) > bytes(Form::Conda) {
        Form::TarBz2
    } else {
        Form::Conda
    }
}

/// What is before and after the only occurrence of `mark`.
fn split_once<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut places = text
        .windows(mark.len())
        .enumerate()
        .filter(|(_, it)| *it == mark);
    let (at, _) = places.next()?;
    if places.next().is_some() {
        return None;
    }
    Some((&text[..at], &text[at + mark.len()..]))
}

/// JSON without the line breaks between its tokens: a string has none.
fn without_breaks(json: &[u8]) -> Cow<'_, [u8]> {
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !json.iter().any(is_break) {
        return Cow::Borrowed(json);
    }
    Cow::Owned(
        json.iter()
            .filter(|byte| !is_break(byte))
            .copied()
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use taipan_zchunk::Limits;

    use super::*;

    /// The file of an index, and its content.
    fn log(text: &str, previous: Option<&LogFile>) -> LogFile {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repodata.json");
        std::fs::write(&path, text).unwrap();
        let table = RecordTable::read(&path).unwrap();
        let index = IndexLog::of(&table, &path, previous).unwrap().unwrap();
        let mut file = Vec::new();
        index.write(previous, &mut file).unwrap();
        let file = LogFile::read(&mut &file[..], &Limits::default()).unwrap();
        assert!(index.is_in(&file));
        file
    }

    fn value(text: &[u8]) -> Value {
        serde_json::from_slice(text).unwrap()
    }

    fn index(conda: &[(&str, u32)], pretty: bool) -> String {
        let record = |number: &u32| serde_json::json!({"name":"a","version":"1","build":"0","size":number,"x":"a,\\nb"});
        let conda: serde_json::Map<String, Value> = conda
            .iter()
            .map(|(file, number)| ((*file).to_owned(), record(number)))
            .collect();
        let whole = serde_json::json!({
            "info": {"subdir": "noarch"},
            "packages": {"z-1-0.tar.bz2": record(&1)},
            "packages.conda": conda,
            "removed": ["q-1-0.conda"],
            "other": [1, 2.50],
        });
        if pretty {
            serde_json::to_string_pretty(&whole).unwrap()
        } else {
            whole.to_string()
        }
    }

    #[test]
    fn the_content_is_the_index() {
        for pretty in [false, true] {
            let files = [("a-1-0.conda", 1), ("b-1-0.conda", 2), ("c-1-0.conda", 3)];
            let text = index(&files, pretty);
            assert_eq!(value(log(&text, None).content()), value(text.as_bytes()));
            let empty = r#"{"info":{},"packages":{},"packages.conda":{}}"#;
            assert_eq!(value(log(empty, None).content()), value(empty.as_bytes()));
        }
    }

    #[test]
    fn a_later_version_continues_the_file() {
        let first = log(
            &index(&[("a-1-0.conda", 1), ("b-1-0.conda", 2)], false),
            None,
        );
        let text = index(
            &[("a-1-0.conda", 1), ("b-1-0.conda", 7), ("0-1-0.conda", 3)],
            true,
        );
        let next = log(&text, Some(&first));
        assert_eq!(value(next.content()), value(text.as_bytes()));
        assert_eq!(next.layout().generation(), 2);
        // A file that was continued is of its own index only.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repodata.json");
        std::fs::write(&path, &text).unwrap();
        let table = RecordTable::read(&path).unwrap();
        let index = IndexLog::of(&table, &path, Some(&first)).unwrap().unwrap();
        assert!(index.is_in(&next) && !index.is_in(&first));
    }
}
