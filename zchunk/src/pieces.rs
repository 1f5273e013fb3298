//! A sparse sink in memory.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Pieces by position. Unlike a vector, its memory does not depend on the position of the last piece,
/// which is unverified until everything has arrived.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    at: u64,
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Pieces {
    /// The bytes written at this position.
    pub(crate) fn get(&self, at: u64) -> Option<&[u8]> {
        self.pieces.get(&at).map(|piece| &piece[..])
    }

    /// The concatenated pieces.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.pieces.values().map(Vec::len).sum());
        for piece in self.pieces.into_values() {
            all.extend_from_slice(&piece);
        }
        all
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            self.pieces.insert(self.at, bytes.to_vec());
            self.at += bytes.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Pieces {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => {
                self.at = at;
                Ok(at)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Read for Pieces {
    /// Content is verified chunk by chunk, so nothing reads it back.
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
