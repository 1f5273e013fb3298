//! Fetching the files.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use futures_util::{StreamExt as _, stream};
use taipan_transfer::{Engine, Expected, FetchError, Fetched, Job, MirrorSet, SinkError, Verifier};
use tokio::task::spawn_blocking;

use super::file::{Outcome, RequestedFile, Source};
use crate::{
    context::Context,
    error::AppError,
    printer::{Printer, bytes},
    progress::Downloads,
    stdout_sink::StdoutSink,
};

/// How much of a present file is read at once, in bytes.
const READ_SIZE: usize = 256 * 1024;

pub(super) struct Downloader<'a> {
    printer: &'a Arc<Printer>,
    context: &'a Context,
    /// Local zchunk files whose chunks may be reused.
    delta_from: &'a [PathBuf],
}

impl<'a> Downloader<'a> {
    pub(super) fn new(
        printer: &'a Arc<Printer>,
        context: &'a Context,
        delta_from: &'a [PathBuf],
    ) -> Self {
        Self {
            printer,
            context,
            delta_from,
        }
    }

    /// Fetches all files concurrently. The outcomes are in the order of the files.
    pub(super) async fn fetch_all(&self, files: &[RequestedFile]) -> Vec<Outcome> {
        let size = files
            .iter()
            .map(|file| file.job.expected.size)
            .sum::<Option<u64>>();
        let downloads = Downloads::new(self.printer, "download", size);
        let engine = self.context.engine(downloads.clone());
        let fetches = files.iter().enumerate().map(|(index, file)| {
            let fetch = self.fetch(&engine, file);
            async move { (index, fetch.await) }
        });
        let mut outcomes: Vec<(usize, Outcome)> = stream::iter(fetches)
            .buffer_unordered(self.context.jobs())
            .collect()
            .await;
        downloads.finish();
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    async fn fetch(&self, engine: &Engine, file: &RequestedFile) -> Outcome {
        if let Some(path) = file.output.clone() {
            let expected = file.job.expected;
            let present = spawn_blocking(move || size_if_verified(&path, expected)).await;
            if let Ok(Some(size)) = present {
                return Outcome::Present(size);
            }
        }
        let started = Instant::now();
        match self.fetch_from_any(engine, file).await {
            Ok(fetched) => Outcome::Downloaded {
                fetched,
                duration: started.elapsed(),
            },
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Fetches from the first channel that has the file.
    async fn fetch_from_any(
        &self,
        engine: &Engine,
        file: &RequestedFile,
    ) -> Result<Fetched, AppError> {
        let sets: Vec<&MirrorSet> = match &file.source {
            Source::Mirrors(set) | Source::Server { mirror: set, .. } => vec![set],
            Source::Channels(indices) => {
                let set = |index: &usize| &self.context.channels[*index].mirrors;
                indices.iter().map(set).collect()
            }
            Source::Nowhere { metalink } => {
                return Err(AppError::NoMirrorOfFile {
                    file: file.job.label.clone(),
                    metalink: metalink.clone(),
                });
            }
        };
        let mut result = Err(AppError::NoChannel);
        for mirrors in sets {
            result = match &file.output {
                Some(path) => self.to_file(engine, mirrors, &file.job, path).await,
                None => self.to_stdout(engine, mirrors, &file.job).await,
            };
            match &result {
                Err(AppError::Fetch(error)) if error.is_absent() => {}
                _ => break,
            }
        }
        result
    }

    async fn to_file(
        &self,
        engine: &Engine,
        mirrors: &MirrorSet,
        job: &Job,
        path: &Path,
    ) -> Result<Fetched, AppError> {
        if is_special(path) {
            return self.to_special(engine, mirrors, job, path).await;
        }
        let old = self.old_zchunk_files(job, path).await;
        if old.is_empty() {
            return Ok(engine.fetch_file(mirrors, job, path).await?);
        }
        let fetched = engine.fetch_zchunk(mirrors, job, &old, path).await?;
        if let Some(delta) = fetched.delta {
            self.printer.say(&format!(
                "{}: {} reused, {} downloaded in {} ranges",
                job.label,
                bytes(delta.reused_bytes),
                bytes(delta.header_bytes + delta.fetched_bytes),
                delta.ranges
            ));
        }
        Ok(fetched)
    }

    /// Fetches a file, and writes it to a device or pipe after its verification.
    async fn to_special(
        &self,
        engine: &Engine,
        mirrors: &MirrorSet,
        job: &Job,
        path: &Path,
    ) -> Result<Fetched, AppError> {
        let failed = |source| {
            let path = path.to_owned();
            let (label, source) = (job.label.clone(), SinkError::Write { path, source });
            AppError::from(FetchError::Sink { label, source })
        };
        let dir = tempfile::tempdir().map_err(failed)?;
        let whole = dir.path().join("file");
        let fetched = engine.fetch_file(mirrors, job, &whole).await?;
        let target = path.to_owned();
        let copy = move || {
            let mut output = File::options().write(true).open(target)?;
            std::io::copy(&mut File::open(whole)?, &mut output)
        };
        let copied = spawn_blocking(copy).await;
        copied
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(failed)?;
        Ok(fetched)
    }

    /// The local zchunk files whose chunks may be reused.
    async fn old_zchunk_files(&self, job: &Job, path: &Path) -> Vec<PathBuf> {
        if !job.target.path.ends_with(".zck") {
            return Vec::new();
        }
        let mut old = self.delta_from.to_vec();
        old.push(path.to_owned());
        let retain = move || {
            old.retain(|path| is_zchunk(path));
            old
        };
        spawn_blocking(retain).await.unwrap_or_default()
    }

    async fn to_stdout(
        &self,
        engine: &Engine,
        mirrors: &MirrorSet,
        job: &Job,
    ) -> Result<Fetched, AppError> {
        let mut sink = StdoutSink::new(self.printer);
        match engine.fetch(mirrors, job, &mut sink).await {
            Err(_) if sink.is_broken() => Err(AppError::StdoutBroken {
                label: job.label.clone(),
            }),
            result => Ok(result?),
        }
    }
}

/// Whether a path is written to and never replaced: a device, a pipe, or a link of the system such as `/dev/stdout`.
fn is_special(path: &Path) -> bool {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink());
    let is_of_system = path.starts_with("/dev") || path.starts_with("/proc");
    let is_other = std::fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir());
    is_other || (is_link && is_of_system)
}

/// Whether the file is a zchunk file, by its first bytes.
fn is_zchunk(path: &Path) -> bool {
    let mut magic = [0; taipan_zchunk::MAGIC.len()];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok_and(|()| magic == taipan_zchunk::MAGIC)
}

/// The size of the file at `path` if its digest is known and correct.
fn size_if_verified(path: &Path, expected: Expected) -> Option<u64> {
    if !expected.is_content_addressed() || is_special(path) {
        return None;
    }
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    if expected.size.is_some_and(|expected| expected != size) {
        return None;
    }
    let mut verifier = Verifier::new(expected);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => break,
            count => verifier.update(&buffer[..count]),
        }
    }
    verifier.finish().ok().map(|_| size)
}
