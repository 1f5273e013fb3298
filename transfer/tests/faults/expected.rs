//! The expected outcome of each fault.

use taipan_mirrors::Class;

use crate::{
    cell::{Cell, Phase, Protocol},
    fault::Fault,
    run::Seen,
};

/// The expected end of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Right,
    /// The fetch fails with an error of this class.
    Wrong(Class),
    /// Either, depending on how many requests are under way when the fault begins.
    Either(Class),
}

/// The expected number of wasted bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waste {
    Exactly(u64),
    /// Depends on what is under way when the fault begins, or when a segment changes its mirror.
    UpTo(u64),
    /// The fetch fails, and the partial is kept.
    Kept,
}

/// Whether the protocol can have the fault, or why not.
pub(crate) fn applicable(cell: &Cell) -> Result<(), &'static str> {
    if cell.protocol != Protocol::File {
        return Ok(());
    }
    let why = match cell.fault {
        Fault::Refused
        | Fault::NoName
        | Fault::BadCertificate
        | Fault::ResetBefore
        | Fault::ResetInBody => "there is no connection",
        Fault::Stalled | Fault::SlowDrip => "the kernel answers, and a test cannot slow it down",
        Fault::WholeForRange | Fault::WrongRange => "the kernel seeks to where it is told to",
        Fault::Forbidden => "the user who runs the test may be allowed to read everything",
        Fault::Unauthorized => "there are no credentials",
        Fault::TooMany | Fault::ServerError | Fault::Unavailable => "there is no status",
        Fault::RedirectLoop | Fault::RedirectWithCredentials => "there are no redirects",
        Fault::Compressed => "there is no encoding on the way",
        Fault::Truncated if cell.phase == Phase::First => "it is half-synced then",
        _ => return Ok(()),
    };
    Err(why)
}

/// The expected outcome of a cell.
pub(crate) fn expected(cell: &Cell) -> (End, Waste) {
    if cell.is_large() {
        return in_segments(cell);
    }
    let (size, half) = (cell.size as u64, cell.half() as u64);
    let right = |bytes| (End::Right, Waste::Exactly(bytes));
    let wrong = |class, bytes| (End::Wrong(class), Waste::Exactly(bytes));
    if !cell.alone() {
        return company(cell);
    }
    let (file, s3, oci) = (
        cell.protocol == Protocol::File,
        cell.protocol == Protocol::S3,
        cell.protocol == Protocol::Oci,
    );
    // The bytes that were fetched before the fault are wasted.
    let before = match cell.phase {
        Phase::First => 0,
        Phase::Middle | Phase::Resumed => half,
    };
    let once = cell.phase == Phase::Resumed;
    match cell.fault {
        // The test replaces the file, so its version has changed, and it is begun anew.
        Fault::FlippedByte if file && once => right(size),
        Fault::FlippedByte if file && cell.phase == Phase::Middle => {
            // Whether it is noticed that the test replaces the file depends on the time in between.
            (End::Wrong(Class::Corrupt), Waste::UpTo(2 * size))
        }
        Fault::FlippedByte => wrong(Class::Corrupt, size),
        Fault::NotFound | Fault::Forbidden => wrong(Class::NotHere, before),
        Fault::Unauthorized => wrong(Class::Denied, before),
        // These are not transient.
        Fault::Compressed => wrong(Class::Unwell, before),
        Fault::RedirectLoop if !s3 => wrong(Class::Unwell, before),
        Fault::HalfSynced if oci => wrong(Class::NotHere, before),
        Fault::HalfSynced if once => right(half),
        Fault::HalfSynced => wrong(Class::Corrupt, before),
        // The file is truncated permanently, which a request from byte 0 detects.
        Fault::Truncated if file && !once => wrong(Class::Corrupt, half),
        // `Content-Range` has the right length, and an error after the last byte is ignored.
        Fault::WrongLength if file || cell.phase == Phase::First => wrong(Class::Corrupt, before),
        // The first half is discarded, or skipped.
        Fault::WholeForRange | Fault::WrongRange | Fault::Replaced => right(before),
        Fault::TooMany if !once => wrong(Class::Throttled, before),
        // In S3 it is the status of throttling.
        Fault::Unavailable if !once && s3 => wrong(Class::Throttled, before),
        Fault::Refused
        | Fault::NoName
        | Fault::BadCertificate
        | Fault::ResetBefore
        | Fault::ServerError
        | Fault::Unavailable
        | Fault::RedirectLoop
            if !once =>
        {
            wrong(Class::Unwell, before)
        }
        // The redirect is not followed, because the signature is for one host.
        Fault::RedirectWithCredentials if !once && s3 => wrong(Class::Unwell, before),
        _ => right(0),
    }
}

/// With a second, sound mirror the fetch always succeeds.
fn company(cell: &Cell) -> (End, Waste) {
    let (size, half) = (cell.size as u64, cell.half() as u64);
    let resumed = cell.phase == Phase::Resumed;
    let waste = match cell.fault {
        // Each mirror sent one half, so neither is accused: the whole file is requested from each.
        Fault::FlippedByte if resumed => Waste::UpTo(2 * size),
        // A local file is replaced by the test, and begun anew if that is noticed.
        Fault::FlippedByte if cell.protocol == Protocol::File && cell.phase == Phase::Middle => {
            Waste::UpTo(2 * size)
        }
        Fault::FlippedByte => Waste::Exactly(size),
        // Without a digest, two halves may be of different versions.
        Fault::Replaced if cell.phase != Phase::First => Waste::Exactly(half),
        Fault::WholeForRange if resumed => Waste::Exactly(half),
        // No more ranges are requested from it. Either it sends the whole file, or the other mirror
        // sends the rest.
        Fault::WrongRange if resumed => Waste::UpTo(half),
        Fault::HalfSynced if resumed && cell.protocol != Protocol::Oci => Waste::UpTo(half),
        _ => Waste::Exactly(0),
    };
    (End::Right, waste)
}

/// Several segments are requested from one mirror at once, so that a fault that begins later may
/// affect only some of them, or none.
fn in_segments(cell: &Cell) -> (End, Waste) {
    let size = cell.size as u64;
    let one = Cell {
        // The outcome follows from that of a file that is fetched by one request.
        size: size_in_one(cell.size),
        ..*cell
    };
    let always = Cell {
        phase: Phase::First,
        ..one
    };
    let waste = match cell.fault {
        Fault::FlippedByte => Waste::UpTo(3 * size),
        // Over HTTP/2 more bytes of an abandoned segment are under way.
        Fault::BadCertificate => Waste::UpTo(size),
        _ => Waste::UpTo(size / 2),
    };
    let file = cell.protocol == Protocol::File;
    match (expected(&always).0, expected(&one).0, cell.fault) {
        // `Content-Range` has the right length.
        (_, _, Fault::WrongLength) if !file => (End::Right, waste),
        // A segment of the first half shows that the file is too short, one of the second does not.
        (End::Wrong(class), _, Fault::HalfSynced)
            if cell.alone() && cell.phase == Phase::Resumed =>
        {
            (End::Either(class), waste)
        }
        // The bytes of the earlier run cannot be told from those of this one.
        (End::Wrong(class), End::Right, Fault::FlippedByte) => (End::Either(class), waste),
        (_, End::Right, _) if cell.phase != Phase::Middle => (End::Right, waste),
        (_, End::Wrong(class), Fault::FlippedByte) if cell.phase != Phase::Resumed => {
            (End::Wrong(class), Waste::Kept)
        }
        (End::Wrong(class), End::Wrong(_), _) if cell.phase == Phase::First => {
            (End::Wrong(class), Waste::Kept)
        }
        (_, End::Wrong(class), _) => (End::Either(class), waste),
        (_, end, _) => (end, waste),
    }
}

const fn size_in_one(size: usize) -> usize {
    if size < 1 << 20 { size } else { 768 << 10 }
}

pub(crate) fn check(cell: &Cell, seen: &Seen) -> Result<(), String> {
    let (end, waste) = expected(cell);
    let has = |class: Class| match &seen.end {
        Ok(()) => false,
        Err(attempts) => attempts.iter().any(|(seen, _)| *seen == class),
    };
    let ends = match end {
        End::Right => seen.end.is_ok(),
        End::Wrong(class) => has(class),
        End::Either(class) => seen.end.is_ok() || has(class),
    };
    let wastes = match waste {
        Waste::Exactly(bytes) => seen.wasted == bytes,
        Waste::UpTo(bytes) => seen.wasted <= bytes || seen.end.is_err(),
        Waste::Kept => seen.end.is_err(),
    };
    if ends && wastes {
        return Ok(());
    }
    Err(format!("expected {end:?} with {waste:?}, got {seen:?}"))
}
