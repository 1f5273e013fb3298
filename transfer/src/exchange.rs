//! One request to one mirror: from its beginning to the verdict.
//!
//! Every request of the crate is an exchange:
//!
//! 1. [`Exchange::begin`] reports the attempt to the observer and the request to the selector.
//! 2. [`Exchange::send`] sends it, unless the engine is offline and the mirror is remote. It waits for the header of the
//!    response as long as the pick allows, and checks it: one function for whole files, ranges and several ranges.
//! 3. [`Response::next`] returns the wanted bytes in order. It counts them, keeps to the rate limits, and detects a body
//!    that stalls, breaks off, or is too short or too long.
//! 4. The verdict is reported once, when the bytes are verified or the attempt has failed: [`Exchange::succeed`],
//!    [`Exchange::fail`] or [`Exchange::cancel`]. An exchange that is dropped is cancelled.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use taipan_mirrors::{Class, MirrorId, Observation, Pick, Progress};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    Attempt, BackendError, Event, Expected, JobId, MirrorSet, Observer, Target, TimeoutPhase,
    Validators, VerifyError,
    backend::{Body, DuplicateHeaders, GetRequest, GetResponse, Ranges, byteranges},
    error::chain,
    limits::Limits,
    pace::Pace,
    range::ByteRange,
};

/// How long to wait for the end of a body after its last byte. The wait allows the connection to be
/// used again.
const TRAILER_TIMEOUT: Duration = Duration::from_secs(1);

/// What all exchanges of one job have in common.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) mirrors: MirrorSet,
    pub(crate) target: Arc<Target>,
    pub(crate) expected: Expected,
    pub(crate) job: JobId,
    pub(crate) limits: Arc<Limits>,
    pub(crate) observer: Arc<dyn Observer>,
    /// No request leaves this machine.
    pub(crate) is_offline: bool,
}

/// How long a mirror may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// Until the header of the response.
    pub(crate) header: Duration,
    /// Between two pieces of the body.
    pub(crate) stall: Duration,
}

impl Timeouts {
    /// For a mirror that no other can replace.
    pub(crate) const PATIENT: Self = Self {
        header: Duration::from_secs(30),
        stall: Duration::from_secs(30),
    };
}

impl From<&Pick> for Timeouts {
    fn from(pick: &Pick) -> Self {
        Self {
            header: pick.first_byte_timeout,
            stall: pick.stall_timeout,
        }
    }
}

/// The measurements of an exchange.
#[derive(Debug)]
struct Measured {
    begun: Instant,
    /// From the beginning to the header of the response.
    header: Option<Duration>,
    /// When the body was complete, so that the time of the verification does not count.
    ended: Option<Instant>,
    /// Time spent waiting for something other than the mirror.
    excused: Duration,
    bytes: u64,
}

/// Shared by an exchange and its response. Locked for a few instructions at a time.
#[derive(Debug, Clone)]
struct Meter(Arc<Mutex<Measured>>);

impl Meter {
    fn start() -> Self {
        Self(Arc::new(Mutex::new(Measured {
            begun: Instant::now(),
            header: None,
            ended: None,
            excused: Duration::ZERO,
            bytes: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        // Each change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request under way. The selector learns of its end exactly once.
pub(crate) struct Exchange {
    context: Context,
    mirror: MirrorId,
    timeouts: Timeouts,
    url: String,
    /// The version of the file of which other bytes of this mirror are already here.
    version: Option<Validators>,
    meter: Meter,
    is_over: bool,
}

/// Whether a server may send the whole file instead of the requested range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WholeFile {
    /// It may: bytes before the range are skipped.
    Skip,
    /// It may not, unless the range begins at byte 0.
    Refuse,
}

impl Exchange {
    /// Begins a request to the mirror that the selector picked. `offset` is the first byte wanted.
    pub(crate) fn begin(context: &Context, pick: &Pick, offset: u64) -> Self {
        context.mirrors.started(pick);
        let why = pick.why.to_string();
        Self::announce(context, pick.mirror, pick.into(), offset, &why)
    }

    /// Begins a request to a mirror that the selector did not pick: a sample or a probe.
    pub(crate) fn begin_on(
        context: &Context,
        mirror: MirrorId,
        timeouts: Timeouts,
        offset: u64,
        why: &str,
    ) -> Self {
        context.mirrors.started_unchosen(mirror);
        Self::announce(context, mirror, timeouts, offset, why)
    }

    fn announce(
        context: &Context,
        mirror: MirrorId,
        timeouts: Timeouts,
        offset: u64,
        why: &str,
    ) -> Self {
        let url = context.mirrors.describe(mirror, &context.target);
        tracing::debug!(job = %context.job, mirror = %url, offset, %why, "request");
        context.observer.event(&Event::Attempt {
            job: context.job,
            mirror,
            name: &url,
            offset,
            why,
        });
        Self {
            context: context.clone(),
            mirror,
            timeouts,
            url,
            version: None,
            meter: Meter::start(),
            is_over: false,
        }
    }

    /// Sets the version of the file that ranges are requested of (`If-Range`).
    pub(crate) fn set_version(&mut self, version: Option<Validators>) {
        self.version = version;
    }

    /// Whether the request was for a range of a certain version.
    pub(crate) fn has_version(&self) -> bool {
        self.version.is_some()
    }

    pub(crate) fn mirror(&self) -> MirrorId {
        self.mirror
    }

    /// The printable URL of the file on this mirror.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Bytes of the body that arrived so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.meter.lock().bytes
    }

    /// From the beginning to the header of the response.
    pub(crate) fn latency(&self) -> Option<Duration> {
        self.meter.lock().header
    }

    /// Time since the beginning, without the excused time.
    pub(crate) fn elapsed(&self) -> Duration {
        let measured = self.meter.lock();
        let end = measured.ended.unwrap_or_else(Instant::now);
        (end - measured.begun).saturating_sub(measured.excused)
    }

    /// Sends the request for the file from `offset` on. `None` when the mirror says that it has not
    /// changed, which only a request with validators allows.
    pub(crate) async fn send(
        &self,
        offset: u64,
        validators: Option<&Validators>,
    ) -> Result<Option<Response>, BackendError> {
        let range = (offset > 0).then(|| ByteRange::from(offset));
        self.outgoing()
            .get(range, validators, WholeFile::Skip)
            .await
    }

    /// Sends the request for one range. The future owns what it needs.
    pub(crate) fn send_range(
        &self,
        range: Range<u64>,
        whole: WholeFile,
    ) -> impl Future<Output = Result<Response, BackendError>> + Send + 'static {
        let outgoing = self.outgoing();
        async move {
            let requested = ByteRange::new(range.start, range.end);
            let response = outgoing.get(requested, None, whole).await?;
            response.ok_or(BackendError::UnexpectedNotModified { url: outgoing.url })
        }
    }

    /// Sends one request for several ranges and waits for all of them: where each part lies in the
    /// file, and its bytes. Fewer may come than were wanted.
    pub(crate) async fn send_ranges(
        &self,
        ranges: &[Range<u64>],
    ) -> Result<Vec<(u64, Bytes)>, BackendError> {
        self.outgoing().get_ranges(ranges).await
    }

    fn outgoing(&self) -> Outgoing {
        Outgoing {
            context: self.context.clone(),
            mirror: self.mirror,
            timeouts: self.timeouts,
            url: self.url.clone(),
            version: self.version.clone(),
            meter: self.meter.clone(),
        }
    }

    /// A remote mirror is not used by an engine that is offline.
    pub(crate) fn check_offline(&self) -> Result<(), BackendError> {
        self.outgoing().check_offline()
    }

    /// Counts bytes that were sent to the mirror.
    pub(crate) fn sent(&self, bytes: u64) {
        let mut measured = self.meter.lock();
        measured.bytes = bytes;
        measured.header = Some(measured.begun.elapsed());
    }

    /// The body is complete. Verifying it is not the mirror's time.
    pub(crate) fn body_ended(&self) {
        self.meter.lock().ended = Some(Instant::now());
    }

    /// The bytes are verified.
    pub(crate) fn succeed(mut self) {
        self.report(Class::Ok, None);
    }

    /// The attempt failed.
    pub(crate) fn fail(self, error: BackendError) -> Attempt {
        let class = error.class();
        self.fail_as(class, error)
    }

    /// The attempt failed, and the selector learns of a failure of this class.
    pub(crate) fn fail_as(mut self, class: Class, error: BackendError) -> Attempt {
        self.report(class, error.retry_after());
        self.attempt(error)
    }

    /// The attempt ends with an error that is not the mirror's failure: it was left for a faster
    /// one, or another mirror's bytes may be the wrong ones.
    pub(crate) fn leave(mut self, error: BackendError) -> Attempt {
        self.end(0);
        self.attempt(error)
    }

    /// The request ends for a reason that says nothing about the mirror.
    pub(crate) fn cancel(mut self) {
        self.end(0);
    }

    /// The same, after up to `wasted` bytes were sent that are not wanted.
    pub(crate) fn cancel_wasting(mut self, wasted: u64) {
        self.end(wasted);
    }

    fn attempt(&self, error: BackendError) -> Attempt {
        failed(
            &self.context,
            self.mirror,
            self.url.clone(),
            error,
            self.bytes(),
        )
    }

    fn report(&mut self, outcome: Class, retry_after: Option<Duration>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let duration = self.elapsed();
        let measured = self.meter.lock();
        self.context.mirrors.finished(
            self.mirror,
            &Observation {
                at: self.context.mirrors.now(),
                path: &self.context.target.path,
                outcome,
                bytes: measured.bytes,
                first_byte: measured.header,
                duration,
                retry_after,
            },
        );
    }

    fn end(&mut self, wasted: u64) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let duration = self.elapsed();
        let measured = self.meter.lock();
        self.context.mirrors.cancelled(
            self.mirror,
            &Progress {
                at: self.context.mirrors.now(),
                bytes: measured.bytes,
                wasted,
                first_byte: measured.header,
                duration,
            },
        );
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(0);
    }
}

/// Reports a failed attempt to the observer.
pub(crate) fn failed(
    context: &Context,
    mirror: MirrorId,
    name: String,
    error: BackendError,
    bytes: u64,
) -> Attempt {
    let (class, cause) = (error.class(), chain(&error));
    tracing::debug!(job = %context.job, mirror = %name, %class, %cause, "attempt failed");
    context.observer.event(&Event::AttemptFailed {
        job: context.job,
        mirror,
        name: &name,
        class,
        cause: &cause,
        bytes,
    });
    Attempt {
        mirror,
        name,
        class,
        error,
        bytes,
    }
}

/// The part of an exchange that a future owns until the response arrives.
struct Outgoing {
    context: Context,
    mirror: MirrorId,
    timeouts: Timeouts,
    url: String,
    version: Option<Validators>,
    meter: Meter,
}

impl Outgoing {
    async fn get(
        &self,
        range: Option<ByteRange>,
        validators: Option<&Validators>,
        whole: WholeFile,
    ) -> Result<Option<Response>, BackendError> {
        let request = GetRequest {
            target: &self.context.target,
            expected: self.context.expected,
            ranges: range.map_or(Ranges::All, Ranges::One),
            validators,
            if_range: range.and(self.if_range()),
        };
        match self.send(request).await? {
            GetResponse::NotModified if validators.is_some() => Ok(None),
            GetResponse::NotModified => Err(BackendError::UnexpectedNotModified {
                url: self.url.clone(),
            }),
            GetResponse::Parts { .. } => Err(self.wrong_range(range, "several ranges")),
            GetResponse::Body {
                start,
                end: sent_end,
                total,
                validators,
                duplicates,
                body,
            } => {
                let known = self.version.as_ref().filter(|_| range.is_some());
                if known.is_some_and(|known| validators.contradicts(known)) {
                    return Err(BackendError::Changed {
                        url: self.url.clone(),
                    });
                }
                self.check_size(total)?;
                let wanted = range.map_or(0, |range| range.start());
                let is_placed = start == wanted || (start == 0 && whole == WholeFile::Skip);
                if !is_placed {
                    return Err(self.wrong_range(range, "the whole file"));
                }
                let length = self.context.expected.size.or(total);
                let end = match (range.and_then(|range| range.end()), length) {
                    (Some(end), Some(length)) => Some(end.min(length)),
                    (end, length) => end.or(length),
                };
                Ok(Some(Response {
                    url: self.url.clone(),
                    validators,
                    duplicates,
                    total,
                    position: wanted,
                    end,
                    is_bounded: range.is_some_and(|range| range.end().is_some()),
                    is_length_known: length.is_some(),
                    sent_end,
                    skip: wanted - start,
                    skipped: 0,
                    incoming: self.incoming(body),
                }))
            }
        }
    }

    fn if_range(&self) -> Option<&str> {
        self.version.as_ref().and_then(Validators::strong_etag)
    }

    async fn get_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<(u64, Bytes)>, BackendError> {
        /// The maximum of boundary and header of a part, in bytes.
        const PART_OVERHEAD: u64 = 1024;
        let request = GetRequest {
            target: &self.context.target,
            expected: self.context.expected,
            ranges: Ranges::Several(ranges),
            validators: None,
            if_range: self.if_range(),
        };
        let not_offered = || BackendError::NoMultiRange {
            url: self.url.clone(),
        };
        let GetResponse::Parts { boundary, body } = self.send(request).await? else {
            return Err(not_offered());
        };
        let wanted: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let most = wanted + PART_OVERHEAD * (ranges.len() as u64 + 1);
        let mut incoming = self.incoming(body);
        let mut text = Vec::new();
        while let Some(piece) = incoming.next(self.timeouts.stall).await? {
            if (text.len() + piece.len()) as u64 > most {
                return Err(not_offered());
            }
            text.extend_from_slice(&piece);
        }
        let text = Bytes::from(text);
        let parts = byteranges::parts(&text, &boundary, ranges).ok_or_else(not_offered)?;
        let cut = |(offset, part)| (offset, text.slice(part));
        Ok(parts.into_iter().map(cut).collect())
    }

    fn check_offline(&self) -> Result<(), BackendError> {
        if self.context.is_offline && self.context.mirrors.is_remote(self.mirror) {
            return Err(BackendError::Offline {
                url: self.url.clone(),
            });
        }
        Ok(())
    }

    /// Sends a request and waits for the header of the response.
    async fn send(&self, request: GetRequest<'_>) -> Result<GetResponse, BackendError> {
        self.check_offline()?;
        let mirrors = &self.context.mirrors;
        let after = self.timeouts.header;
        let response = timeout(after, mirrors.backend(self.mirror).get(request)).await;
        let response = response.map_err(|_| BackendError::Timeout {
            url: self.url.clone(),
            phase: TimeoutPhase::Header,
            after,
        })??;
        let mut measured = self.meter.lock();
        measured.header = Some(measured.begun.elapsed());
        Ok(response)
    }

    fn check_size(&self, total: Option<u64>) -> Result<(), BackendError> {
        match (self.context.expected.size, total) {
            (Some(expected), Some(got)) if expected != got => Err(BackendError::Corrupt {
                url: self.url.clone(),
                source: VerifyError::Size { expected, got },
            }),
            _ => Ok(()),
        }
    }

    fn wrong_range(&self, range: Option<ByteRange>, got: &str) -> BackendError {
        BackendError::WrongRange {
            url: self.url.clone(),
            wanted: range.unwrap_or(ByteRange::from(0)),
            got: got.to_owned(),
        }
    }

    fn incoming(&self, body: Body) -> Incoming {
        let mirror = (self.context.mirrors.number(), self.mirror);
        Incoming {
            url: self.url.clone(),
            body,
            stall: self.timeouts.stall,
            meter: self.meter.clone(),
            pace: Pace::new(),
            limits: Arc::clone(&self.context.limits),
            mirror,
            // Bytes of other bodies may have used up the limit: a body of one piece waits, too.
            paid_until: self.context.limits.reserve(mirror, 0),
        }
    }
}

/// A body as it arrives: measured, limited, with a timeout for each piece.
struct Incoming {
    url: String,
    body: Body,
    stall: Duration,
    meter: Meter,
    pace: Pace,
    limits: Arc<Limits>,
    mirror: (u64, MirrorId),
    /// Until then the rate limits let no more bytes pass.
    paid_until: Option<Instant>,
}

impl Incoming {
    /// The next piece; `None` at the end of the body. Cancel-safe.
    async fn next(&mut self, limit: Duration) -> Result<Option<Bytes>, BackendError> {
        if let Some(until) = self.paid_until {
            let begun = Instant::now();
            sleep_until(until).await;
            self.paid_until = None;
            self.excuse(begun.elapsed());
        }
        let Ok(next) = timeout(limit, self.body.next()).await else {
            return Err(BackendError::Timeout {
                url: self.url.clone(),
                phase: TimeoutPhase::Body,
                after: limit,
            });
        };
        let Some(piece) = next.transpose()? else {
            return Ok(None);
        };
        let bytes = piece.len() as u64;
        self.meter.lock().bytes += bytes;
        self.pace.count(bytes);
        self.paid_until = self.limits.reserve(self.mirror, bytes);
        Ok(Some(piece))
    }

    fn excuse(&mut self, pause: Duration) {
        self.pace.excuse(pause);
        self.meter.lock().excused += pause;
    }
}

/// A response whose header has been checked, and whose body has not.
pub(crate) struct Response {
    pub(crate) url: String,
    pub(crate) validators: Validators,
    pub(crate) duplicates: Option<Box<DuplicateHeaders>>,
    /// The length of the whole file, if the server sent it.
    pub(crate) total: Option<u64>,
    /// The offset in the file of the next byte that is returned.
    position: u64,
    /// One past the last byte that is wanted, when it is known.
    end: Option<u64>,
    /// The request had an end.
    is_bounded: bool,
    is_length_known: bool,
    /// One past the last byte that the server sends, if it sends a range.
    sent_end: Option<u64>,
    /// Bytes before the range that are still to come.
    skip: u64,
    skipped: u64,
    incoming: Incoming,
}

impl Response {
    /// The next bytes in order; `None` when all that were wanted are here, or when the body ends and
    /// the length of the file is not known. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, BackendError> {
        loop {
            let is_complete = self.is_complete();
            let limit = if is_complete {
                self.incoming.stall.min(TRAILER_TIMEOUT)
            } else {
                self.incoming.stall
            };
            let mut piece = match self.incoming.next(limit).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return self.ended().map(|()| None),
                // Errors after the last byte do not matter.
                Err(_) if is_complete => return Ok(None),
                Err(error) => return Err(error),
            };
            if self.skip > 0 {
                let skipped = self.skip.min(piece.len() as u64);
                self.skip -= skipped;
                self.skipped += skipped;
                // At most the length of the piece.
                piece = piece.slice(usize::try_from(skipped).unwrap_or(piece.len())..);
            }
            if piece.is_empty() {
                continue;
            }
            if let Some(end) = self.end
                && piece.len() as u64 > end.saturating_sub(self.position)
            {
                if !self.is_bounded {
                    return Err(BackendError::Long {
                        url: self.url.clone(),
                        expected: end,
                    });
                }
                let wanted = end.saturating_sub(self.position);
                self.skipped += piece.len() as u64 - wanted;
                piece.truncate(usize::try_from(wanted).unwrap_or(0));
                if piece.is_empty() {
                    return Ok(None);
                }
            }
            self.position += piece.len() as u64;
            return Ok(Some(piece));
        }
    }

    /// All bytes that are wanted.
    pub(crate) async fn collect(&mut self) -> Result<Vec<u8>, BackendError> {
        let mut bytes = Vec::new();
        while !self.is_complete()
            && let Some(piece) = self.next().await?
        {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Whether all bytes that are wanted are here.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.position >= end)
    }

    /// Whether the server ignored the range, so that bytes before it are still to come.
    pub(crate) fn is_whole_file(&self) -> bool {
        self.skip > 0
    }

    /// Whether the body has ended where the server said, before the end of the requested range. The
    /// rest is requested again.
    pub(crate) fn is_partial(&self) -> bool {
        !self.is_complete() && self.sent_end == Some(self.position)
    }

    /// Checks the length of a body that has ended.
    fn ended(&self) -> Result<(), BackendError> {
        if self.is_partial() {
            return Ok(());
        }
        match self.end {
            Some(expected) if self.position < expected && self.is_length_known => {
                Err(BackendError::Short {
                    url: self.url.clone(),
                    expected,
                    got: self.position,
                })
            }
            _ => Ok(()),
        }
    }

    /// One past the last wanted byte, if it is known.
    pub(crate) fn end(&self) -> Option<u64> {
        self.end
    }

    /// Bytes that arrived and were not wanted, since the last call.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Excludes time spent waiting for something other than the mirror.
    pub(crate) fn excuse(&mut self, pause: Duration) {
        self.incoming.excuse(pause);
    }

    /// Once per window, the throughput over that window in bytes per second.
    pub(crate) fn pace(&mut self) -> Option<f64> {
        self.incoming.pace.measure()
    }
}
