//! What is to come of every fault.

use taipan_mirrors::Class;

use crate::{
    cell::{Cell, Phase, Protocol},
    fault::Fault,
    run::Seen,
};

/// How many bytes may be fetched in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waste {
    Exactly(u64),
    /// It depends on what was in the buffers when the fault struck.
    UpTo(u64),
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

/// The class of the error, or that the file is there; and the waste.
fn expected(cell: &Cell) -> (Result<(), Class>, Waste) {
    let (size, half) = (cell.size as u64, cell.half() as u64);
    let right = |bytes| (Ok(()), Waste::Exactly(bytes));
    let wrong = |class, bytes| (Err(class), Waste::Exactly(bytes));
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
fn company(cell: &Cell) -> (Result<(), Class>, Waste) {
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
    (Ok(()), waste)
}

/// The waste as it is to be written down.
pub(crate) fn waste(cell: &Cell) -> Waste {
    expected(cell).1
}

pub(crate) fn check(cell: &Cell, seen: &Seen) -> Result<(), String> {
    let (end, waste) = expected(cell);
    let bound = match waste {
        Waste::Exactly(bytes) => seen.wasted == bytes,
        Waste::UpTo(bytes) => seen.wasted <= bytes,
    };
    if seen.end == end && bound {
        return Ok(());
    }
    Err(format!(
        "it should be {end:?} with {waste:?}, and is {seen:?}"
    ))
}
