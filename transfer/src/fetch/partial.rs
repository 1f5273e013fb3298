//! A file that grows on disk, and survives the end of the process.
//!
//! Bytes lie at their final offsets. The journal follows after the end of the file, so that there is only one file on
//! disk; to finish it, the journal is truncated and the file renamed. Bytes without a gap from byte 0 are hashed as they
//! are written, from memory. No byte is written twice while it counts as present, so that the hash is that of the bytes
//! on disk.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _},
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    Expected, Sha256, SinkError, Verifier, VerifyError,
    fetch::{
        journal::{self, Key},
        range_map::RangeMap,
    },
};

/// How many bytes are read at a time where they are read again.
const PIECE: usize = 256 << 10;

/// The path of the partial of a file.
pub(crate) fn part_path(path: &Path) -> PathBuf {
    crate::sink::beside(path, ".taipan-part")
}

/// A partial file. Cheap to clone; clones are the same file.
#[derive(Debug, Clone)]
pub(crate) struct Partial(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    size: u64,
    key: Key,
    state: Mutex<State>,
    /// Held while bytes are hashed. A thread that writes never waits for it.
    hasher: Mutex<Hasher>,
    /// How many bytes are here without a gap from the first one on.
    front: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    have: RangeMap<()>,
    unrecorded: RangeMap<()>,
    /// Where the next record goes.
    journal_end: u64,
    /// It was renamed or removed: there is nothing to record any more.
    is_over: bool,
}

#[derive(Debug)]
struct Hasher {
    verifier: Verifier,
    expected: Expected,
}

/// An opened file, unless another process has locked it.
enum Opened {
    Ours(File),
    Busy,
}

impl Partial {
    /// Opens the partial at `path`, or begins it. When another process writes it, begins a partial
    /// with another name, which is not resumed.
    pub(crate) fn open(
        path: &Path,
        key: Key,
        size: u64,
        expected: Expected,
    ) -> Result<Self, SinkError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SinkError::Write { path, source }
        };
        let mut path = path.to_owned();
        let file = match open(&path).map_err(failed(&path))? {
            Opened::Ours(file) => file,
            Opened::Busy => {
                let mut name = path.file_name().unwrap_or_default().to_os_string();
                let count = COUNT.fetch_add(1, Ordering::Relaxed);
                name.push(format!(".{}-{count}", std::process::id()));
                path.set_file_name(name);
                match open(&path).map_err(failed(&path))? {
                    Opened::Ours(file) => {
                        file.set_len(0).map_err(failed(&path))?;
                        file
                    }
                    Opened::Busy => {
                        let busy = io::Error::other("another process is writing it");
                        return Err(failed(&path)(busy));
                    }
                }
            }
        };
        let journal = read_journal(&file, size, key).map_err(failed(&path))?;
        if journal.is_none() {
            file.set_len(0).map_err(failed(&path))?;
        }
        let have = journal.unwrap_or_default();
        let (front, _) = watch::channel(have.front());
        let inner = Inner {
            file,
            path,
            size,
            key,
            state: Mutex::new(State {
                have,
                unrecorded: RangeMap::default(),
                journal_end: 0,
                is_over: false,
            }),
            hasher: Mutex::new(Hasher {
                verifier: Verifier::new(expected),
                expected,
            }),
            front,
        };
        inner
            .rewrite_journal(&mut inner.state())
            .map_err(failed(&inner.path))?;
        Ok(Self(Arc::new(inner)))
    }

    /// What is here.
    pub(crate) fn have(&self) -> RangeMap<()> {
        self.0.state().have.clone()
    }

    /// How many bytes are here without a gap from the first one on. Changes wake the receiver up.
    pub(crate) fn front(&self) -> watch::Receiver<u64> {
        self.0.front.subscribe()
    }

    /// Writes bytes that belong at `offset`. Blocks.
    pub(crate) fn write(&self, offset: u64, pieces: &[Bytes]) -> Result<(), SinkError> {
        self.0
            .write(offset, pieces)
            .map_err(|source| self.failed(source))
    }

    /// Reads bytes that are here. Blocks.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Vec<u8>, SinkError> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| self.failed(io::Error::other("the range does not fit into memory")))?;
        let mut bytes = vec![0; length];
        self.0
            .file
            .read_exact_at(&mut bytes, range.start)
            .map_err(|source| self.failed(source))?;
        Ok(bytes)
    }

    /// Forgets ranges with wrong bytes. Blocks.
    pub(crate) fn forget(&self, ranges: &[Range<u64>]) -> Result<(), SinkError> {
        let forget = || {
            let mut hasher = self.0.hasher();
            let mut state = self.0.state();
            for range in ranges {
                state.have.remove(range.clone());
                state.unrecorded.remove(range.clone());
                if range.start < hasher.verifier.length() {
                    hasher.verifier = Verifier::new(hasher.expected);
                }
            }
            self.0.front.send_replace(state.have.front());
            self.0.rewrite_journal(&mut state)
        };
        forget().map_err(|source| self.failed(source))
    }

    /// Whether all bytes together are the file. Blocks for as long as it takes to hash what was not
    /// hashed while it arrived.
    pub(crate) fn verify(&self) -> Result<Result<Sha256, VerifyError>, SinkError> {
        let mut hasher = self.0.hasher();
        self.0
            .hash(&mut hasher)
            .map_err(|source| self.failed(source))?;
        Ok(hasher.verifier.clone().finish())
    }

    /// Whether all bytes together are this file. Blocks while all of it is read.
    pub(crate) fn verify_against(
        &self,
        expected: Expected,
    ) -> Result<Result<Sha256, VerifyError>, SinkError> {
        let mut verifier = Verifier::new(expected);
        while verifier.length() < self.0.size {
            let from = verifier.length();
            let to = self.0.size.min(from + PIECE as u64);
            verifier.update(&self.read(from..to)?);
        }
        Ok(verifier.finish())
    }

    /// Its bytes, for a caller that verifies them itself.
    pub(crate) fn body(&self) -> PartialBody {
        PartialBody {
            partial: self.clone(),
            at: 0,
        }
    }

    /// Gives the complete file its name.
    pub(crate) fn finish(&self, target: &Path) -> Result<(), SinkError> {
        let mut state = self.0.state();
        let finish = || {
            self.0.file.set_len(self.0.size)?;
            std::fs::rename(&self.0.path, target)
        };
        finish().map_err(|source| SinkError::Write {
            path: target.to_owned(),
            source,
        })?;
        state.is_over = true;
        Ok(())
    }

    /// Removes it.
    pub(crate) fn discard(&self) {
        let mut state = self.0.state();
        state.is_over = true;
        // An error here is ignored: a leftover is never taken for the file.
        let _ = std::fs::remove_file(&self.0.path);
    }

    fn failed(&self, source: io::Error) -> SinkError {
        SinkError::Write {
            path: self.0.path.clone(),
            source,
        }
    }
}

/// The bytes of a partial without its journal. What is written here is not recorded.
#[derive(Debug)]
pub(crate) struct PartialBody {
    partial: Partial,
    at: u64,
}

impl io::Read for PartialBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.partial.0.size.saturating_sub(self.at);
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let got = self
            .partial
            .0
            .file
            .read_at(&mut buffer[..length], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl io::Write for PartialBody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.partial.0.size.saturating_sub(self.at);
        if (bytes.len() as u64) > left {
            return Err(io::Error::other("beyond the end of the file"));
        }
        let put = self.partial.0.file.write_at(bytes, self.at)?;
        self.at += put as u64;
        Ok(put)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for PartialBody {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            io::SeekFrom::End(by) => self.partial.0.size.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Opens and locks a file, and makes sure that it still has its name: another process may have
/// given it its final name in between.
fn open(path: &Path) -> io::Result<Opened> {
    loop {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Opened::Busy),
            // A file system without locks.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let ours = file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(Opened::Ours(file));
            }
            Ok(there) if there.is_symlink() => {
                return Err(io::Error::other("it is a symbolic link"));
            }
            _ => {}
        }
    }
}

/// The ranges that are here, by the journal; `None` when there is no journal of this file.
fn read_journal(file: &File, size: u64, key: Key) -> io::Result<Option<RangeMap<()>>> {
    let length = file.metadata()?.len();
    if length == size && size > 0 {
        // It was about to be renamed. Its digest is verified later.
        let mut have = RangeMap::default();
        have.insert(0..size, ());
        return Ok(Some(have));
    }
    let Some(journal_length) = length.checked_sub(size) else {
        return Ok(None);
    };
    if journal_length < journal::HEADER as u64 || journal_length > journal::MAX_JOURNAL {
        return Ok(None);
    }
    let mut text = Vec::new();
    let mut reader = file;
    reader.seek(io::SeekFrom::Start(size))?;
    reader.take(journal::MAX_JOURNAL).read_to_end(&mut text)?;
    Ok(journal::parse(&text, size, key))
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent after every change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hasher(&self) -> MutexGuard<'_, Hasher> {
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, offset: u64, pieces: &[Bytes]) -> io::Result<()> {
        let mut end = offset;
        for piece in pieces {
            self.file.write_all_at(piece, end)?;
            end += piece.len() as u64;
        }
        // Hashed while they are in memory, if they are next.
        if let Ok(mut hasher) = self.hasher.try_lock()
            && hasher.verifier.length() == offset
        {
            for piece in pieces {
                hasher.verifier.update(piece);
            }
        }
        {
            let mut state = self.state();
            state.have.insert(offset..end, ());
            state.unrecorded.insert(offset..end, ());
            if state.unrecorded.total() >= journal::max_unrecorded(self.size) {
                self.record(&mut state)?;
            }
            let front = state.have.front();
            self.front
                .send_if_modified(|old| std::mem::replace(old, front) != front);
        }
        // Bytes behind these may have waited for them. A thread that finds the hasher taken may leave
        // them: its own bytes counted as present before it looked, and the holder hashes until
        // nothing present is left, or `verify` does.
        if let Ok(mut hasher) = self.hasher.try_lock() {
            self.hash(&mut hasher)?;
        }
        Ok(())
    }

    /// Hashes what is here without a gap and was not hashed yet.
    fn hash(&self, hasher: &mut Hasher) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let from = hasher.verifier.length();
            let left = self.state().have.front().saturating_sub(from);
            if left == 0 {
                return Ok(());
            }
            let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            buffer.resize(length, 0);
            self.file.read_exact_at(&mut buffer, from)?;
            hasher.verifier.update(&buffer);
        }
    }

    /// Writes records of what has none.
    fn record(&self, state: &mut State) -> io::Result<()> {
        let records = journal::records(&std::mem::take(&mut state.unrecorded));
        self.file.write_all_at(&records, state.journal_end)?;
        state.journal_end += records.len() as u64;
        Ok(())
    }

    /// Rewrites the journal, without the records of forgotten ranges.
    fn rewrite_journal(&self, state: &mut State) -> io::Result<()> {
        // Without its header there is no journal: if the process ends here, bytes are lost, but no
        // wrong ones are trusted.
        self.file.set_len(self.size.saturating_add(1))?;
        let header = journal::header(self.size, self.key);
        let start = self.size.saturating_add(header.len() as u64);
        let records = journal::records(&state.have);
        self.file.write_all_at(&records, start)?;
        self.file.write_all_at(&header, self.size)?;
        state.unrecorded = RangeMap::default();
        state.journal_end = start + records.len() as u64;
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = self.state();
        if !state.is_over {
            if state.have.total() == 0 {
                // There is nothing to resume.
                let _ = std::fs::remove_file(&self.path);
            } else {
                // Bytes without a record are fetched again.
                let _ = self.record(&mut state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(content: &[u8]) -> Expected {
        Expected {
            size: Some(content.len() as u64),
            sha256: Some(Sha256::of(content)),
            ..Expected::default()
        }
    }

    fn partial(path: &Path, content: &[u8]) -> Partial {
        let expected = expected(content);
        let size = content.len() as u64;
        Partial::open(path, Key::of(&expected), size, expected).unwrap()
    }

    fn bytes(content: &[u8], range: Range<usize>) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(&content[range])]
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i * 7 % 251).unwrap())
            .collect()
    }

    #[test]
    fn pieces_written_in_any_order_become_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, content) = (dir.path().join("x.part"), content(900_000));
        let partial = partial(&path, &content);
        for range in [600_000..900_000, 0..300_000, 300_000..600_000] {
            let offset = range.start as u64;
            partial.write(offset, &bytes(&content, range)).unwrap();
        }
        assert_eq!(*partial.front().borrow(), 900_000);
        assert_eq!(partial.verify().unwrap(), Ok(Sha256::of(&content)));
        partial.finish(&dir.path().join("x")).unwrap();
        drop(partial);
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), content);
        assert!(!path.exists());
    }

    #[test]
    fn the_next_run_resumes_from_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (path, content) = (dir.path().join("x.part"), content(5_000));
        let first = partial(&path, &content);
        first.write(1_000, &bytes(&content, 1_000..2_000)).unwrap();
        first.write(3_000, &bytes(&content, 3_000..4_000)).unwrap();
        drop(first);
        let second = partial(&path, &content);
        let gaps = second.have().gaps(5_000);
        assert_eq!(gaps, [0..1_000, 2_000..3_000, 4_000..5_000]);
        second
            .forget(std::slice::from_ref(&(1_500..2_500)))
            .unwrap();
        drop(second);
        let third = partial(&path, &content);
        assert_eq!(
            third.have().gaps(5_000),
            [0..1_000, 1_500..3_000, 4_000..5_000]
        );
        for gap in third.have().gaps(5_000) {
            let range = usize::try_from(gap.start).unwrap()..usize::try_from(gap.end).unwrap();
            third.write(gap.start, &bytes(&content, range)).unwrap();
        }
        assert_eq!(third.verify().unwrap(), Ok(Sha256::of(&content)));
    }

    #[test]
    fn a_partial_of_another_file_is_not_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        let (one, other) = (content(5_000), vec![7; 5_000]);
        let first = partial(&path, &one);
        first.write(0, &bytes(&one, 0..4_000)).unwrap();
        drop(first);
        assert_eq!(partial(&path, &other).have().total(), 0);
        // And neither is it when only the length differs.
        let first = partial(&path, &one);
        first.write(0, &bytes(&one, 0..4_000)).unwrap();
        drop(first);
        assert_eq!(partial(&path, &one[..4_990]).have().total(), 0);
    }

    #[test]
    fn two_jobs_for_one_path_use_different_partials() {
        let dir = tempfile::tempdir().unwrap();
        let (path, content) = (dir.path().join("x.part"), content(5_000));
        let one = partial(&path, &content);
        let two = partial(&path, &content);
        for partial in [&one, &two] {
            partial.write(0, &bytes(&content, 0..5_000)).unwrap();
            assert!(partial.verify().unwrap().is_ok());
            partial.finish(&dir.path().join("x")).unwrap();
        }
        drop((one, two));
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn wrong_bytes_are_found_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let content = content(300_000);
        let partial = partial(&dir.path().join("x.part"), &content);
        let wrong = vec![Bytes::from(vec![0; 100_000])];
        partial.write(0, &bytes(&content, 0..100_000)).unwrap();
        partial.write(100_000, &wrong).unwrap();
        partial
            .write(200_000, &bytes(&content, 200_000..300_000))
            .unwrap();
        assert!(partial.verify().unwrap().is_err());
        partial
            .forget(std::slice::from_ref(&(100_000..200_000)))
            .unwrap();
        partial
            .write(100_000, &bytes(&content, 100_000..200_000))
            .unwrap();
        assert!(partial.verify().unwrap().is_ok());
    }

    #[test]
    fn an_empty_partial_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        drop(partial(&path, &content(10)));
        assert!(!path.exists());
    }

    proptest! {
        /// A damaged partial can be opened, and its journal lists ranges within the size only.
        #[test]
        fn damage_to_the_journal_does_no_harm(
            at in 0_usize..200, flips in prop::collection::vec(any::<u8>(), 1..60), cut in 0_u64..400,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (path, content) = (dir.path().join("x.part"), content(2_000));
            let first = partial(&path, &content);
            for start in (0..2_000).step_by(500) {
                first.write(start as u64, &bytes(&content, start..start + 100)).unwrap();
            }
            drop(first);
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&flips, 2_000 + at as u64).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length - cut.min(length)).unwrap();
            drop(file);
            let again = partial(&path, &content);
            for (range, ()) in again.have().iter() {
                prop_assert!(range.end <= 2_000);
            }
            prop_assert!(again.have().total() == 2_000 || again.have().total() <= 400);
        }
    }
}
