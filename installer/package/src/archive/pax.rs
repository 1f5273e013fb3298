use super::mtime::Mtime;

/// What an extended header (`x`) says about the entry after it. POSIX.1-2001, "pax Header Block".
#[derive(Debug, Default)]
pub(super) struct PaxRecords {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) sparse: PaxSparse,
}

/// The GNU sparse records of versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// The file's size with its holes.
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths in turn, of versions 0.0 and 0.1.
    pub(super) map: Vec<u64>,
}

impl PaxSparse {
    pub(super) fn is_sparse(&self) -> bool {
        self.major.is_some() || self.real_size.is_some() || !self.map.is_empty()
    }
}

/// Parses the records, each `"%d %s=%s\n"` with the length of the whole. Unknown keys are
/// ignored. `None` when the bytes are not such records. The caller bounds `data`.
pub(super) fn parse_pax(mut data: &[u8]) -> Option<PaxRecords> {
    let mut records = PaxRecords::default();
    while !data.is_empty() {
        // Some writers fill up with NULs.
        if data.iter().all(|b| *b == 0) {
            break;
        }
        let space = data.iter().take(20).position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&data[..space])?).ok()?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return None;
        }
        let record = &data[space + 1..length - 1];
        data = &data[length..];
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => records.path = Some(value.to_vec()),
            b"linkpath" => records.linkpath = Some(value.to_vec()),
            b"size" => records.size = Some(decimal(value)?),
            b"mtime" => records.mtime = Some(Mtime::parse(value)?),
            b"GNU.sparse.major" => records.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.name" => records.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                records.sparse.real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                records.sparse.map.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                records.sparse.map = value
                    .split(|b| *b == b',')
                    .map(decimal)
                    .collect::<Option<_>>()?;
            }
            _ => {}
        }
    }
    Some(records)
}

/// A decimal number without sign or spaces.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_read_by_length_so_values_may_hold_newlines() {
        let records = parse_pax(b"12 path=a\nb\n19 mtime=1700000.5\n12 unknown=\n").unwrap();
        assert_eq!(records.path.unwrap(), b"a\nb");
        let mtime = records.mtime.unwrap();
        assert_eq!((mtime.seconds, mtime.nanoseconds), (1_700_000, 500_000_000));
    }

    #[test]
    fn broken_records_are_no_records() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"999 path=a\n",
            b"0 path=a\n",
            b"9 path a\n",
            b"99999999999999999999999 a=b\n",
            b"9 size=x\n",
            b"11 mtime=.\n",
        ] {
            assert!(parse_pax(bytes).is_none(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_pax(&bytes);
        }

        #[test]
        fn almost_right_bytes_do_not_panic(text in "([0-9]{1,3} (path|mtime|GNU.sparse.map)=[-0-9.,x]{0,8}\n){0,4}") {
            let _ = parse_pax(text.as_bytes());
        }
    }
}
