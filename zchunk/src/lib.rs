//! The zchunk format: read, write, chunk, plan a delta.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths are bounded by `Limits`, and those by the address space, where a header is parsed"
)]

mod archive;
mod buzhash;
mod codec;
mod compint;
mod cursor;
mod dictionary;
mod digest;
mod error;
mod header;
mod limits;
mod stream;
mod writer;

pub use archive::{Archive, extract};
pub use buzhash::{Buzhash, Chunker};
pub use codec::{Encoding, Strategy};
pub use dictionary::{DICTIONARY_SIZE, train_dictionary};
pub use digest::{Digest, HashKind, Hasher};
pub use error::{Error, Field, Result};
pub use header::{Chunk, Compression, Element, Header, Lead, Signature};
pub use limits::Limits;
pub use stream::{Reader, StreamDecoder, read_header};
pub use writer::{Boundaries, Spool, Writer, WriterOptions, Written, write_to_vec};
