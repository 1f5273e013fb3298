//! Writing an index with some of the records of another, each verbatim.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write},
};

use super::table::{Form, Other, RecordTable, Row};

/// Which records of an index are written, and what else is changed.
#[derive(Debug)]
pub struct Rewrite<'a> {
    /// The index.
    pub table: &'a RecordTable,
    /// The numbers of its rows that are left out.
    pub without: &'a BTreeSet<usize>,
    /// Records that are added, by map and key, as JSON. They replace rows with the same key.
    pub added: &'a BTreeMap<(Form, String), String>,
    /// Whether `info.base_url` is dropped: files are where the index is.
    pub drops_base_url: bool,
    /// Other values at the top that are dropped, because they are about records that are left out.
    pub drops: &'a [&'a str],
}

impl Rewrite<'_> {
    /// Whether the text stays as it is.
    pub fn is_identity(&self) -> bool {
        self.without.is_empty()
            && self.added.is_empty()
            && self.drops.is_empty()
            && self.table.unusable.is_empty()
            && !(self.drops_base_url && self.table.base_url.is_some())
    }
}

/// Writes an index to `output`. `input` is the file that the table was read from.
pub(crate) fn write_index(
    rewrite: &Rewrite<'_>,
    input: &mut File,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut output = BufWriter::with_capacity(256 << 10, output);
    if rewrite.is_identity() {
        input.rewind()?;
        io::copy(input, &mut output)?;
        return output.flush();
    }
    let table = rewrite.table;
    let mut reader = Reader::new(input);
    output.write_all(b"{")?;
    let mut is_first = true;
    for other in table.others.iter().filter(|other| other.path.len() == 1) {
        let key = other.path[0].as_str();
        if rewrite.drops.contains(&key) {
            continue;
        }
        separate(&mut output, &mut is_first)?;
        write!(output, "\"{key}\":")?;
        if key == "info" && rewrite.drops_base_url && table.base_url.is_some() {
            output.write_all(&without_base_url(
                &reader.read(other.offset, other.length)?,
            )?)?;
        } else {
            reader.copy(other.offset, other.length, &mut output)?;
        }
    }
    let rows = |form: Form| {
        let rows = table.rows().iter().enumerate();
        rows.filter(move |(number, row)| row.form == form && !rewrite.without.contains(number))
    };
    for form in [Form::TarBz2, Form::Conda] {
        // Readers expect both maps, even empty ones.
        separate(&mut output, &mut is_first)?;
        let [key] = form.path() else { continue };
        write!(output, "\n\"{key}\":")?;
        let rows = rows(form).map(|(_, row)| row);
        if rewrite.added.is_empty() {
            write_map(table, rows, &mut reader, &mut output)?;
        } else {
            write_merged(rewrite, form, rows, &mut reader, &mut output)?;
        }
    }
    let in_v3: Vec<&Other> = (table.others.iter())
        .filter(|other| other.path.len() == 2 && other.path[0] == "v3")
        .collect();
    let forms = [Form::V3Conda, Form::V3TarBz2, Form::V3Wheel];
    let has = |form: Form| table.rows().iter().any(|row| row.form == form);
    if !in_v3.is_empty() || forms.into_iter().any(has) {
        separate(&mut output, &mut is_first)?;
        output.write_all(b"\n\"v3\":{")?;
        let mut is_first = true;
        for other in in_v3 {
            separate(&mut output, &mut is_first)?;
            write!(output, "\"{}\":", other.path[1])?;
            reader.copy(other.offset, other.length, &mut output)?;
        }
        for form in forms.into_iter().filter(|form| has(*form)) {
            separate(&mut output, &mut is_first)?;
            let [_, key] = form.path() else { continue };
            write!(output, "\n\"{key}\":")?;
            let rows = rows(form).map(|(_, row)| row);
            write_map(table, rows, &mut reader, &mut output)?;
        }
        output.write_all(b"}")?;
    }
    output.write_all(b"}\n")?;
    output.flush()
}

fn separate(output: &mut impl Write, is_first: &mut bool) -> io::Result<()> {
    if !std::mem::replace(is_first, false) {
        output.write_all(b",")?;
    }
    Ok(())
}

fn write_map<'r>(
    table: &RecordTable,
    rows: impl Iterator<Item = &'r Row>,
    reader: &mut Reader<'_>,
    output: &mut impl Write,
) -> io::Result<()> {
    output.write_all(b"{")?;
    let mut is_first = true;
    for row in rows {
        separate(output, &mut is_first)?;
        write!(output, "\n\"{}\":", table.key(row))?;
        let (offset, length) = row.place();
        reader.copy(offset, length as u64, output)?;
    }
    output.write_all(b"}")
}

/// Rows and added records in the order of their keys.
fn write_merged<'r>(
    rewrite: &Rewrite<'_>,
    form: Form,
    rows: impl Iterator<Item = &'r Row>,
    reader: &mut Reader<'_>,
    output: &mut impl Write,
) -> io::Result<()> {
    let table = rewrite.table;
    let mut records: BTreeMap<&str, Result<&Row, &str>> =
        rows.map(|row| (table.key(row), Ok(row))).collect();
    for ((of, key), record) in rewrite.added {
        if *of == form {
            records.insert(key, Err(record));
        }
    }
    output.write_all(b"{")?;
    let mut is_first = true;
    for (key, record) in records {
        separate(output, &mut is_first)?;
        write!(output, "\n\"{key}\":")?;
        match record {
            Ok(row) => {
                let (offset, length) = row.place();
                reader.copy(offset, length as u64, output)?;
            }
            Err(text) => output.write_all(text.as_bytes())?,
        }
    }
    output.write_all(b"}")
}

fn without_base_url(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut info: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)?;
    info.remove("base_url");
    Ok(serde_json::to_vec(&info)?)
}

/// Reads parts of a file that mostly follow each other.
struct Reader<'f> {
    file: io::BufReader<&'f mut File>,
    position: Option<u64>,
}

impl<'f> Reader<'f> {
    fn new(file: &'f mut File) -> Self {
        Self {
            file: io::BufReader::with_capacity(256 << 10, file),
            position: None,
        }
    }

    fn seek(&mut self, offset: u64) -> io::Result<()> {
        match self.position {
            Some(position) => {
                let step = i128::from(offset) - i128::from(position);
                match i64::try_from(step) {
                    Ok(step) => self.file.seek_relative(step)?,
                    Err(_) => self.file.seek(SeekFrom::Start(offset)).map(drop)?,
                }
            }
            None => self.file.seek(SeekFrom::Start(offset)).map(drop)?,
        }
        self.position = Some(offset);
        Ok(())
    }

    fn copy(&mut self, offset: u64, length: u64, output: &mut impl Write) -> io::Result<()> {
        self.seek(offset)?;
        let copied = io::copy(&mut (&mut self.file).take(length), output)?;
        self.position = Some(offset + copied);
        if copied != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.copy(offset, length, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_stay_as_they_are_written() {
        let text = r#"{"info":{"subdir":"noarch","base_url":"https://o.example/"},"odd": [1, 2 ],
"packages":{"a-1-0.tar.bz2":{"size": 1 ,  "new_key":{"x":[]}},"b-1-0.tar.bz2":{}},
"packages.conda":{"c-1-0.conda":{"z":1,"a":2}},"signatures":{},
"v3":{"conda":{"d-1-0":{"q" :1}},"x":3}}"#;
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        let table = RecordTable::scan(&mut text.as_bytes()).unwrap();
        let write = |without: &BTreeSet<usize>, drops_base_url, drops: &[&str]| {
            let rewrite = Rewrite {
                table: &table,
                without,
                added: &BTreeMap::new(),
                drops_base_url,
                drops,
            };
            let mut output = Vec::new();
            write_index(&rewrite, &mut input.try_clone().unwrap(), &mut output).unwrap();
            String::from_utf8(output).unwrap()
        };
        assert_eq!(write(&BTreeSet::new(), false, &[]), text);
        let written = write(&BTreeSet::from([1]), true, &["signatures"]);
        assert_eq!(
            written,
            "{\"info\":{\"subdir\":\"noarch\"},\"odd\":[1, 2 ],\n\
             \"packages\":{\n\"a-1-0.tar.bz2\":{\"size\": 1 ,  \"new_key\":{\"x\":[]}}},\n\
             \"packages.conda\":{\n\"c-1-0.conda\":{\"z\":1,\"a\":2}},\n\
             \"v3\":{\"x\":3,\n\"conda\":{\n\"d-1-0\":{\"q\" :1}}}}\n"
        );
        let parsed: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(parsed["packages"].as_object().unwrap().len(), 1);
    }
}
