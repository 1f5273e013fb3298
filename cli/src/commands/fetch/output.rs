//! The output path of each file.

use std::{collections::HashSet, path::Path};

use super::file::{RequestedFile, Source};
use crate::{args::FetchArgs, error::AppError};

/// Sets the output paths and creates their directories.
pub(super) fn assign(files: &mut [RequestedFile], args: &FetchArgs) -> Result<(), AppError> {
    let directory = args.directory.as_deref().unwrap_or(Path::new(""));
    let mut assigned = HashSet::new();
    for file in files {
        let path = match &args.output {
            Some(output) => output.clone(),
            None => directory.join(relative_path(file)),
        };
        if path.is_dir() {
            return Err(AppError::OutputIsDirectory { path });
        }
        if !assigned.insert(path.clone()) {
            return Err(AppError::SameOutput { path });
        }
        let parent = path.parent();
        if let Some(parent) = parent.filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|source| AppError::WriteFile {
                path: parent.to_owned(),
                source,
            })?;
        }
        file.output = Some(path);
    }
    Ok(())
}

/// Below the output directory: a file of a metalink keeps its directories, any other only its name.
fn relative_path(file: &RequestedFile) -> &Path {
    let path = Path::new(&file.job.target.path);
    match file.source {
        Source::Mirrors(_) | Source::Nowhere { .. } => path,
        Source::Channels(_) | Source::Server { .. } => path.file_name().map_or(path, Path::new),
    }
}
