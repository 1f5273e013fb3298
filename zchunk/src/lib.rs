//! The zchunk format: read, write, chunk, plan a delta.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths are bounded by `Limits`, and those by the address space, where a header is parsed"
)]

mod archive;
mod assemble;
mod buzhash;
mod codec;
mod compint;
mod compressors;
mod cost;
mod cursor;
mod dictionary;
mod digest;
mod error;
mod follower;
mod header;
mod layout;
mod limits;
mod log_file;
mod log_writer;
mod pieces;
mod pipeline;
mod plain;
mod plan;
mod stream;
mod writer;

pub use archive::{Archive, extract};
pub use assemble::{Assembler, Outcome};
pub use buzhash::{Buzhash, Chunker};
pub use codec::{Encoding, Strategy};
pub use cost::CostModel;
pub use dictionary::{DICTIONARY_SIZE, train_dictionary};
pub use digest::{Digest, HashKind, Hasher};
pub use error::{Error, Field, Result};
pub use follower::Follower;
pub use header::{Chunk, Compression, Element, Header, Lead, Signature};
pub use layout::{Frame, LAYOUT_ELEMENT, Layout};
pub use limits::Limits;
pub use log_file::LogFile;
pub use log_writer::{LogDictionary, LogOptions, write_log};
pub use plain::PlainIndex;
pub use plan::{Form, Goal, Origin, Plan, Planner};
pub use stream::{Reader, StreamDecoder, read_header};
pub use writer::{Boundaries, Spool, Writer, WriterOptions, Written, write_to_vec};
