//! The files of metalinks.

use taipan_mirrors::{Metalink, MetalinkFile, Provenance};
use taipan_transfer::{Expected, HttpClient, Job, Target};

use super::{
    addressed_sets::AddressedSets,
    file::{RequestedFile, Source},
};
use crate::{
    error::AppError, list_location::ListLocation, mirror_lists::fetch_text, printer::Printer,
};

/// The files that a metalink lists. Without a client none is fetched from a server.
pub(super) async fn files_of(
    location: &ListLocation,
    client: Option<&HttpClient>,
    sets: &mut AddressedSets<'_>,
    printer: &Printer,
) -> Result<Vec<RequestedFile>, AppError> {
    let name = location.to_string();
    let text = fetch_text(location, client).await?;
    let origin = |line: u32| match location {
        ListLocation::File(_) => Provenance::File {
            file: name.as_str().into(),
            line,
        },
        ListLocation::Url(_) => Provenance::Discovered {
            from: format!("{name}:{line}").into(),
        },
    };
    let metalink = Metalink::parse(&text, &name, origin).map_err(AppError::Metalink)?;
    for skipped in &metalink.skipped {
        printer.detail(&format!("{name}: {skipped} (skipped)"));
    }
    if metalink.files.is_empty() {
        return Err(AppError::EmptyMetalink { name });
    }
    let files = metalink.files.iter();
    Ok(files.map(|it| requested(it, &name, sets)).collect())
}

/// A file that no mirror can be asked for fails alone; the others are fetched.
fn requested(file: &MetalinkFile, metalink: &str, sets: &mut AddressedSets<'_>) -> RequestedFile {
    let mut expected = Expected {
        size: file.version.size,
        ..Expected::default()
    };
    for digest in &file.version.digests {
        expected.add(digest);
    }
    let target = Target::path(file.name.as_str());
    RequestedFile {
        job: Job::content(file.name.as_str(), target, expected),
        source: match sets.of_file(&file.name, &file.mirrors) {
            Some(set) => Source::Mirrors(set),
            None => Source::Nowhere {
                metalink: metalink.to_owned(),
            },
        },
        output: None,
    }
}
