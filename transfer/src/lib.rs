//! Verified bytes from any mirror, over HTTP, S3, OCI and files.
