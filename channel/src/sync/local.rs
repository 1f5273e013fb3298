//! Work on local files that blocks.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use super::error::SyncError;

/// Runs work that blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// The error of a local file.
pub(crate) fn local(path: &Path) -> impl Fn(io::Error) -> SyncError {
    let path = path.to_owned();
    move |source| SyncError::Local {
        path: path.clone(),
        source,
    }
}

/// Compresses a file with zstd.
pub(crate) async fn compress(from: PathBuf, to: PathBuf, level: i32) -> Result<(), SyncError> {
    let path = to.clone();
    let work = move || -> io::Result<()> {
        let mut input = BufReader::new(File::open(from)?);
        let output = BufWriter::new(File::create(to)?);
        let mut encoder = zstd::stream::write::Encoder::new(output, level)?;
        encoder.multithread(2)?;
        encoder.include_checksum(true)?;
        // The memory of each thread is a multiple of the window.
        encoder.window_log(22)?;
        io::copy(&mut input, &mut encoder)?;
        encoder.finish()?.flush()
    };
    blocking(work).await.map_err(local(&path))
}
