//! Destinations as the command line names them.

use taipan_mirrors::{Location, LocationError, masked_in};
use taipan_transfer::{HttpClient, Outlet, OutletOptions};

use crate::args::DestinationArgs;

/// Why a text names no destination.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DestinationError {
    #[error("invalid destination `{text}`")]
    Location { text: String, source: LocationError },
    #[error(
        "{text} is no destination: web servers take no uploads that taipan knows; \
         use s3://, oci:// or file://"
    )]
    Web { text: String },
    #[error("invalid value for `--s3-endpoint`: `{text}` is not an http:// or https:// URL")]
    Endpoint { text: String },
    #[error("the destination {text} is given twice")]
    Twice { text: String },
    #[error("{text} is the source: it cannot be a destination, too")]
    Source { text: String },
    #[error("there are {count} destinations, and at most 64 are possible")]
    TooMany { count: usize },
}

/// The location that a text names, with the options of the command line.
pub(crate) fn location(text: &str, args: &DestinationArgs) -> Result<Location, DestinationError> {
    // A path is a directory, as for channels.
    let path = match text {
        _ if text.contains("://") => None,
        _ => std::path::absolute(text).ok(),
    };
    let parsed = match path {
        Some(path) => Location::parse(&path.display().to_string()),
        None => Location::parse(text),
    };
    let mut location = parsed.map_err(|source| DestinationError::Location {
        text: masked_in(text),
        source,
    })?;
    if let Location::S3(bucket) = &mut location {
        let endpoint = args.s3_endpoint.clone();
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        if let Some(endpoint) = endpoint.or_else(|| variable("AWS_ENDPOINT_URL")) {
            let url: Option<url::Url> = endpoint.parse().ok();
            let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
            bucket.endpoint = Some(url.ok_or_else(|| DestinationError::Endpoint {
                text: masked_in(&endpoint),
            })?);
            bucket.path_style = true;
        }
        bucket.path_style |= args.s3_path_style;
        if args.s3_region.is_some() {
            bucket.region.clone_from(&args.s3_region);
        }
    }
    Ok(location)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The outlets of destinations.
pub(crate) fn outlets(
    texts: &[String],
    args: &DestinationArgs,
    jobs: u32,
    client: &HttpClient,
) -> Result<Vec<Outlet>, DestinationError> {
    if texts.len() > 64 {
        return Err(DestinationError::TooMany { count: texts.len() });
    }
    let defaults = OutletOptions::default();
    let options = OutletOptions {
        most_connections: jobs,
        requests_per_minute: args.requests_per_minute,
        retries: args.retry.unwrap_or(defaults.retries),
    };
    let mut outlets: Vec<Outlet> = Vec::new();
    for text in texts {
        let location = location(text, args)?;
        let text = || masked_in(text);
        if outlets.iter().any(|outlet| *outlet.location() == location) {
            return Err(DestinationError::Twice { text: text() });
        }
        let outlet = Outlet::new(location, &options, client);
        outlets.push(outlet.ok_or_else(|| DestinationError::Web { text: text() })?);
    }
    Ok(outlets)
}
