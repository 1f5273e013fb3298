//! The zchunk format: read, write, chunk, plan a delta.
//!
//! A zchunk file is a header and a body. The body is a sequence of chunks, each compressed by itself;
//! the header has an index of their checksums and lengths. A client with an older version of a file
//! fetches the new header and then only the new chunks.
//!
//! The crate is pure: it reads and writes through [`std::io`]'s traits, and must not know of files,
//! networks, clocks, or the meaning of the content. Input is never trusted: a header is parsed after
//! its checksum is verified, a chunk is decompressed after its checksum is verified, and [`Limits`]
//! bound the memory and work of a valid file. The checksums detect modification only if the header's
//! checksum comes from a trusted source; otherwise they detect accidents.
//!
//! # Writing a file
//!
//! [`Writer`] takes content by [`std::io::Write`] and splits it where `zck` would, or, with
//! [`WriterOptions::with_manual_boundaries`], where [`Writer::end_chunk`] is called.
//!
//! ```
//! use taipan_zchunk::{Writer, WriterOptions};
//!
//! # fn main() -> taipan_zchunk::Result<()> {
//! let mut writer = Writer::new(WriterOptions::default().with_manual_boundaries())?;
//! for part in ["first part", "second part"] {
//!     writer.push(part.as_bytes())?;
//!     writer.end_chunk()?;
//! }
//! let mut file = Vec::new();
//! let written = writer.finish(&mut file)?;
//! assert_eq!(written.header().chunk_count(), 3); // the dictionary's entry is always there
//! let detached_header = written.detached();
//! # assert!(detached_header.starts_with(b"\0ZHR1"));
//! # Ok(()) }
//! ```
//!
//! # Reading a file
//!
//! [`Reader`] reads from any [`std::io::Read`]; [`StreamDecoder`] takes bytes as they arrive;
//! [`Archive`] returns single chunks; [`extract`] decompresses on all cores.
//!
//! ```
//! use std::io::{Cursor, Read};
//! use taipan_zchunk::{Archive, Limits, Reader, StreamDecoder, WriterOptions, write_to_vec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (file, _) = write_to_vec(b"some content", WriterOptions::default())?;
//! let limits = Limits::default();
//!
//! let mut content = String::new();
//! Reader::new(&file[..], &limits)?.read_to_string(&mut content)?;
//! assert_eq!(content, "some content");
//!
//! let mut decoder = StreamDecoder::new(limits);
//! let mut arrived = Vec::new();
//! for piece in file.chunks(7) {
//!     decoder.push(piece, |_chunk, bytes| {
//!         arrived.extend_from_slice(bytes);
//!         Ok(())
//!     })?;
//! }
//! let header = decoder.finish()?; // only now is the file known to be complete
//! assert_eq!(arrived, b"some content");
//!
//! let mut archive = Archive::open(Cursor::new(&file), &limits)?;
//! assert_eq!(archive.chunk(header.chunk_count() - 1)?, b"some content");
//! # Ok(()) }
//! ```
//!
//! # Updating a file
//!
//! A [`Planner`] is given the local files; its [`Plan`] lists the ranges to fetch; an [`Assembler`] builds
//! the file and reports corrupt chunks, which can be fetched from another mirror.
//!
//! ```
//! use std::io::Cursor;
//! use taipan_zchunk::{
//!     Archive, Assembler, CostModel, Goal, Header, Limits, Planner, WriterOptions, write_to_vec,
//! };
//!
//! # fn main() -> taipan_zchunk::Result<()> {
//! # let old_content: Vec<u8> = (0..60_000u32).flat_map(u32::to_le_bytes).collect();
//! # let mut new_content = old_content.clone();
//! # new_content[100_000] ^= 1;
//! let limits = Limits::default();
//! let (old_file, _) = write_to_vec(&old_content, WriterOptions::default())?;
//! let (new_file, _) = write_to_vec(&new_content, WriterOptions::default())?; // on a server
//!
//! let target = Header::parse(&new_file, &limits)?; // fetched: see `Lead` for how much
//! let mut old = Archive::open(Cursor::new(&old_file), &limits)?;
//! let mut planner = Planner::new(&target, Goal::File);
//! let source = planner.add_file(old.header());
//! let plan = planner.plan(&CostModel::default());
//! assert!(plan.is_worthwhile());
//!
//! let mut assembler = Assembler::new(target, &plan, Cursor::new(Vec::new()))?;
//! assembler.take_file(source, &mut old)?;
//! for range in plan.ranges() {
//!     let body = &new_file[range.start as usize..range.end as usize]; // fetched
//!     let outcome = assembler.push_range(range.start, body)?;
//!     assert!(outcome.bad.is_empty()); // otherwise `replan`, and fetch from another mirror
//! }
//! assert_eq!(assembler.finish()?.into_inner(), new_file);
//! # Ok(()) }
//! ```
//!
//! # A dictionary
//!
//! Small chunks compress far better with a dictionary. All files of a series need the same one: another
//! dictionary, version or level of zstd changes every stored form. With flag 4, clients that need only
//! the content recognise chunks by the checksum of their content instead.
//!
//! ```
//! use taipan_zchunk::{WriterOptions, train_dictionary, write_to_vec};
//!
//! # fn main() -> taipan_zchunk::Result<()> {
//! # let samples: Vec<String> = (0..2000).map(|n| format!("item {n} of a list, {}", n * 77)).collect();
//! let dictionary = train_dictionary(&samples, 4096)?;
//! let options = WriterOptions::default().with_dictionary(dictionary).with_uncompressed_source();
//! let (file, written) = write_to_vec(samples.concat().as_bytes(), options)?;
//! assert!(written.header().dictionary().is_some());
//! # Ok(()) }
//! ```
//!
//! # A log of records
//!
//! [`write_log`] writes the versions of a set of records so that a [`Follower`] with any earlier version
//! fetches little more than the records that it lacks. The layout is described at [`Layout`].
//!
//! ```
//! use taipan_zchunk::{
//!     CostModel, Follower, Frame, Header, Limits, LogFile, LogOptions, write_log,
//! };
//!
//! # fn main() -> taipan_zchunk::Result<()> {
//! let frame = Frame::json(b"{\n", b"\n}\n");
//! let options = LogOptions::default();
//! let limits = Limits::default();
//! let records = |names: &[&str]| -> Vec<Vec<u8>> {
//!     names.iter().map(|name| format!("\"{name}\":{{}}").into_bytes()).collect()
//! };
//!
//! let (mut first, mut second) = (Vec::new(), Vec::new());
//! let one = records(&["ant", "bee"]);
//! write_log(None, &frame, one.iter().map(Vec::as_slice), &options, &mut first)?;
//! let old = LogFile::read(&mut &first[..], &limits)?;
//! let two = records(&["bee", "cow"]);
//! write_log(Some(&old), &frame, two.iter().map(Vec::as_slice), &options, &mut second)?;
//!
//! // A client with the first version:
//! let mut follower = Follower::new(&old, Header::parse(&second, &limits)?)?;
//! while !follower.is_complete() {
//!     for range in follower.plan(&CostModel::default()).ranges() {
//!         let body = &second[range.start as usize..range.end as usize]; // fetched
//!         follower.push_range(range.start, body)?;
//!     }
//!     follower.derive()?;
//! }
//! let new = follower.finish()?;
//! assert_eq!(new.content(), b"{\n\"bee\":{},\n\"cow\":{}\n}\n");
//! // To store for the next update: `new.detached()` and `new.content()`.
//! # Ok(()) }
//! ```

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
mod header_parts;
mod index;
mod layout;
mod lead;
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
pub use header::{Chunk, Compression, Element, Header, MAGIC, MAGIC_DETACHED, Signature};
pub use layout::{Frame, LAYOUT_ELEMENT, Layout};
pub use lead::Lead;
pub use limits::Limits;
pub use log_file::LogFile;
pub use log_writer::{LogDictionary, LogOptions, write_log};
pub use plain::PlainIndex;
pub use plan::{ChunkOrigin, Form, Goal, Plan, Planner};
pub use stream::{Reader, StreamDecoder, read_header};
pub use writer::{Boundaries, Spool, Writer, WriterOptions, Written, write_to_vec};
