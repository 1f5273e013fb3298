//! The zchunk format: read, write, chunk, plan a delta.
