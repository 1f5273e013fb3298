//! HTTP, S3 and OCI servers with scripted faults and a small built-in channel.
