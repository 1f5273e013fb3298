//! What is to come of every fault.

use taipan_mirrors::Class;

use crate::{
    cell::{Cell, Phase, Protocol},
    fault::Fault,
    run::Seen,
};

/// How a fetch is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Right,
    /// An error of this class is what nobody could get over.
    Wrong(Class),
    /// It depends on how many requests are under way when the fault sets in.
    Either(Class),
}

/// How many bytes may be fetched in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waste {
    Exactly(u64),
    /// It depends on what is under way when the fault strikes, or when a segment is taken over.
    UpTo(u64),
    /// There is no file, and what has arrived of it is kept for the next attempt.
    Kept,
}

/// Whether there is such a thing, or why not.
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
        Fault::Forbidden => "whoever runs the test may be allowed to read everything",
        Fault::Unauthorized => "there are no credentials",
        Fault::TooMany | Fault::ServerError | Fault::Unavailable => "there is no status",
        Fault::RedirectLoop | Fault::RedirectWithCredentials => "there are no redirects",
        Fault::Compressed => "there is no encoding on the way",
        Fault::Truncated if cell.phase == Phase::First => "it is half-synced then",
        _ => return Ok(()),
    };
    Err(why)
}

/// What is to come of a cell.
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
    // What was fetched before the fault came is lost with it.
    let before = match cell.phase {
        Phase::First => 0,
        Phase::Middle | Phase::Resumed => half,
    };
    let once = cell.phase == Phase::Resumed;
    match cell.fault {
        Fault::FlippedByte => wrong(Class::Corrupt, size),
        Fault::NotFound | Fault::Forbidden => wrong(Class::NotHere, before),
        Fault::Unauthorized => wrong(Class::Denied, before),
        // These are not believed to pass by themselves.
        Fault::Compressed => wrong(Class::Unwell, before),
        Fault::RedirectLoop if !s3 => wrong(Class::Unwell, before),
        Fault::HalfSynced if oci => wrong(Class::NotHere, before),
        Fault::HalfSynced if once => right(half),
        Fault::HalfSynced => wrong(Class::Corrupt, before),
        // It is cut for good, and that shows when it is asked for from its start.
        Fault::Truncated if file && !once => wrong(Class::Corrupt, half),
        // A range says how long the file is, and what comes after its last byte does not matter.
        Fault::WrongLength if file || cell.phase == Phase::First => wrong(Class::Corrupt, before),
        // The half that is here has to be thrown away, or passed over.
        Fault::WholeForRange | Fault::WrongRange | Fault::Replaced => right(before),
        Fault::TooMany if !once => wrong(Class::Throttled, before),
        // S3 says so to those who ask too much.
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
        // Its signature is for one host, so it is not followed.
        Fault::RedirectWithCredentials if !once && s3 => wrong(Class::Unwell, before),
        _ => right(0),
    }
}

/// With a sound mirror there is always a file.
fn company(cell: &Cell) -> (End, Waste) {
    let (size, half) = (cell.size as u64, cell.half() as u64);
    let resumed = cell.phase == Phase::Resumed;
    let waste = match cell.fault {
        // Of two that gave a half each nobody is to blame yet, so each is asked for all of it.
        Fault::FlippedByte if resumed => Waste::UpTo(2 * size),
        Fault::FlippedByte => Waste::Exactly(size),
        // Without a digest nobody knows whether two halves belong together.
        Fault::Replaced if cell.phase != Phase::First => Waste::Exactly(half),
        Fault::WholeForRange if resumed => Waste::Exactly(half),
        // It is asked for ranges no more; chance decides whether it is asked for the whole, or the
        // other mirror for the rest.
        Fault::WrongRange if resumed => Waste::UpTo(half),
        Fault::HalfSynced if resumed && cell.protocol != Protocol::Oci => Waste::UpTo(half),
        _ => Waste::Exactly(0),
    };
    (End::Right, waste)
}

/// In segments a mirror is asked for several at once, so that a fault which sets in later may come
/// too late for some or all of them.
fn in_segments(cell: &Cell) -> (End, Waste) {
    let size = cell.size as u64;
    let one = Cell {
        // What comes of a file in one piece tells what comes of this one.
        size: size_in_one(cell.size),
        ..*cell
    };
    let always = Cell {
        phase: Phase::First,
        ..one
    };
    let waste = match cell.fault {
        Fault::FlippedByte => Waste::UpTo(3 * size),
        // Over HTTP/2, where what is under way of a segment that is given up is more.
        Fault::BadCertificate => Waste::UpTo(size),
        _ => Waste::UpTo(size / 2),
    };
    let file = cell.protocol == Protocol::File;
    match (expected(&always).0, expected(&one).0, cell.fault) {
        // A range says how long the file is.
        (_, _, Fault::WrongLength) if !file => (End::Right, waste),
        // A segment of its first half shows that it is too short, and one of its second does not.
        (End::Wrong(class), _, Fault::HalfSynced)
            if cell.alone() && cell.phase == Phase::Resumed =>
        {
            (End::Either(class), waste)
        }
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
    Err(format!(
        "it should be {end:?} with {waste:?}, and is {seen:?}"
    ))
}
