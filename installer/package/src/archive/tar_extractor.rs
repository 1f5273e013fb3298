use std::io::{Read, Write};

use super::entry_path::{EntryPath, lossy};
use super::error::{ArchiveError, EntryProblem, LimitKind};
use super::limits::ExtractSummary;
use super::meter::Meter;
use super::sparse::SparseMap;
use super::tar_stream::{TarEntry, TarKind, TarStream};
use super::tree::{Tree, write_at};

/// Written by the store; a copy in the archive would be out of date (CEP 32).
const DROPPED: &[u8] = b"info/repodata_record.json";

/// Extracts tars into a tree, and counts what they contain.
pub(super) struct TarExtractor<'m> {
    pub(super) tree: Tree,
    pub(super) meter: &'m Meter<'m>,
    pub(super) summary: ExtractSummary,
    entries: u64,
}

impl<'m> TarExtractor<'m> {
    pub(super) fn new(tree: Tree, meter: &'m Meter<'m>) -> Self {
        Self {
            tree,
            meter,
            summary: ExtractSummary::default(),
            entries: 0,
        }
    }

    /// Extracts one tar and reads `decoder` to its end.
    pub(super) fn tar(&mut self, decoder: impl Read, member: &str) -> Result<(), ArchiveError> {
        let mut tar = TarStream::new(decoder, self.meter, member);
        while let Some(entry) = tar.next_entry()? {
            self.entries += 1;
            if self.entries > self.meter.limits.entries {
                return Err(ArchiveError::Limit {
                    member: member.to_owned(),
                    what: LimitKind::Entries,
                    limit: self.meter.limits.entries,
                });
            }
            self.entry(&mut tar, &entry, member)?;
        }
        Ok(())
    }

    /// Call it after the last tar, because a hard link may name a file of another tar.
    pub(super) fn finish(mut self) -> Result<ExtractSummary, ArchiveError> {
        self.tree.finish()?;
        if !self.tree.is_file(&[b"info", b"index.json"]) {
            return Err(ArchiveError::NoIndex);
        }
        self.summary.archive_bytes = self.meter.read();
        Ok(self.summary)
    }

    fn entry<R: Read>(
        &mut self,
        tar: &mut TarStream<'_, R>,
        entry: &TarEntry,
        member: &str,
    ) -> Result<(), ArchiveError> {
        let limits = self.meter.limits;
        let bad = |problem| ArchiveError::Entry {
            member: member.to_owned(),
            entry: lossy(&entry.path),
            problem,
        };
        let Some(path) = EntryPath::parse(&entry.path, member, limits)? else {
            // `tar -c .` begins with `./`. Only a directory can be the root.
            return match entry.kind {
                TarKind::Directory => Ok(()),
                _ => Err(bad(EntryProblem::EmptyPath)),
            };
        };
        if path.as_bytes() == DROPPED {
            return Ok(());
        }
        match &entry.kind {
            TarKind::Directory => {
                self.tree.directory(member, &path)?;
                self.summary.directories += 1;
            }
            TarKind::Symlink => {
                if entry.link.len() > limits.path_bytes {
                    return Err(ArchiveError::Limit {
                        member: member.to_owned(),
                        what: LimitKind::PathBytes,
                        limit: limits.path_bytes as u64,
                    });
                }
                if entry.link.is_empty() || entry.link.contains(&0) {
                    return Err(bad(EntryProblem::LinkTarget));
                }
                (self.tree).symlink(member, &path, &entry.link, entry.mtime)?;
                self.summary.symlinks += 1;
            }
            TarKind::HardLink => {
                if entry.link.is_empty() {
                    return Err(bad(EntryProblem::LinkTarget));
                }
                let Some(target) = EntryPath::parse(&entry.link, member, limits)? else {
                    return Err(bad(EntryProblem::LinkTarget));
                };
                self.tree.hard_link(member, &path, &target)?;
                self.summary.hard_links += 1;
            }
            TarKind::File => {
                self.file(tar, entry, &path, member)?;
                self.summary.bytes += entry.stored;
                self.summary.files += 1;
            }
            TarKind::Sparse(map) => {
                self.sparse(tar, entry, map, &path, member)?;
                self.summary.bytes += map.real_size;
                self.summary.files += 1;
            }
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        tar: &mut TarStream<'_, R>,
        entry: &TarEntry,
        path: &EntryPath,
        member: &str,
    ) -> Result<(), ArchiveError> {
        let mut file = self.tree.file(member, path, entry.mode)?;
        loop {
            let piece = tar.piece()?;
            if piece.is_empty() {
                break;
            }
            // Written from the decoder's buffer without a copy: a small file in one write.
            (file.write_all(piece)).map_err(|e| self.tree.write_error(path, e))?;
            let n = piece.len();
            tar.consume(n);
        }
        self.tree.finish_file(path, &file, entry.mtime)
    }

    fn sparse<R: Read>(
        &mut self,
        tar: &mut TarStream<'_, R>,
        entry: &TarEntry,
        map: &SparseMap,
        path: &EntryPath,
        member: &str,
    ) -> Result<(), ArchiveError> {
        let file = self.tree.file(member, path, entry.mode)?;
        let failed = |e| self.tree.write_error(path, e);
        file.set_len(map.real_size).map_err(failed)?;
        for (offset, length) in &map.parts {
            let (mut at, mut left) = (*offset, *length);
            while left > 0 {
                let piece = tar.piece()?;
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                if n == 0 {
                    // The sum of the map equals the bytes of the entry, which was checked.
                    return Err(ArchiveError::Truncated {
                        within: format!("{member}, inside a sparse file"),
                    });
                }
                write_at(&file, &piece[..n], at).map_err(failed)?;
                tar.consume(n);
                at += n as u64;
                left -= n as u64;
            }
        }
        self.tree.finish_file(path, &file, entry.mtime)
    }
}
