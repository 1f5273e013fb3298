//! A file over one connection at a time, into a sink.
//!
//! - A body that breaks off is resumed at the next byte on another mirror when the digest is known; otherwise the file
//!   is restarted.
//! - A request that is late is hedged: sent to a second mirror as well.
//! - A digest mismatch is the failure of a mirror that sent the whole file. When several sent parts, none is accused:
//!   from then on the whole file is requested from each mirror, which shows which of them sends wrong bytes.
//! - A rejection by the sink is held back until the digest is known: if the digest is right, the file is unusable and no
//!   other mirror helps; if it is wrong, the mirror failed.

use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use taipan_mirrors::{Class, MirrorId, Why};
use tokio::time::{Instant, timeout};

use crate::{
    BackendError, FetchError, Fetched, Sha256, Sink, SinkError, Validators, Verifier,
    exchange::{Exchange, Response},
    ledger::{Ledger, MIN_PROGRESS},
    pace::is_worth_leaving,
};

/// The fetch of one file as a stream.
pub(crate) struct StreamFetch<'l, 'a> {
    ledger: &'l mut Ledger<'a>,
    verifier: Verifier,
    /// Rejection by the sink, held back until the digest is known.
    rejection: Option<SinkError>,
    /// The mirrors whose bytes are in the verifier.
    contributors: Vec<MirrorId>,
    /// A file from several mirrors was wrong: from now on the whole file is requested from each.
    one_mirror_only: bool,
}

/// Why an attempt ended before the file was complete and right.
enum Failure {
    Mirror(BackendError),
    /// The server sent a part of the range, as it said. The rest has to be requested.
    Partial,
    /// The body was complete, and the file as a whole is wrong.
    Mismatch(BackendError),
    Sink(SinkError),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::Mirror(error)
    }
}

/// A response, or why there is none.
enum Opened {
    NotModified(Validators),
    /// The previous body broke off after the last byte of a file of unknown length.
    Complete,
    Body(Box<Response>),
}

/// A complete and verified file.
struct Complete {
    file: Option<(Sha256, u64)>,
    validators: Validators,
}

impl<'l, 'a> StreamFetch<'l, 'a> {
    pub(crate) fn new(ledger: &'l mut Ledger<'a>) -> Self {
        let verifier = Verifier::new(ledger.job.expected);
        Self {
            ledger,
            verifier,
            rejection: None,
            contributors: Vec::new(),
            one_mirror_only: false,
        }
    }

    /// Goes from mirror to mirror until the file is in the sink, or no mirror is left.
    pub(crate) async fn run(mut self, sink: &mut dyn Sink) -> Result<Fetched, FetchError> {
        loop {
            let pick = self.ledger.choose(self.left()).await?;
            if !self.can_resume_on(pick.mirror) {
                self.restart(sink).await?;
            }
            let offset = self.verifier.length();
            let exchange = self.ledger.begin(&pick, offset);
            let (exchange, opened) = self.open(exchange).await;
            match self.attempt(&exchange, opened, sink).await {
                Ok(complete) => {
                    let url = exchange.url().to_owned();
                    exchange.succeed();
                    return Ok(Fetched {
                        file: complete.file,
                        url,
                        validators: complete.validators,
                        attempts: self.ledger.take_attempts(),
                        wasted: self.ledger.wasted,
                        delta: None,
                    });
                }
                Err(Failure::Sink(source)) => {
                    // A verified file that the sink does not take is not the mirror's failure.
                    if self.is_verified() {
                        exchange.succeed();
                    }
                    return Err(self.ledger.sink_error(source));
                }
                Err(Failure::Partial) => exchange.cancel(),
                Err(Failure::Mirror(BackendError::Changed { .. })) => {
                    self.ledger.changed(exchange);
                    self.restart(sink).await?;
                }
                Err(Failure::Mirror(error)) => {
                    let gained = self.verifier.length().saturating_sub(offset);
                    self.failed(exchange, error, gained, sink).await?;
                }
                Err(Failure::Mismatch(error)) => self.mismatch(exchange, error, sink).await?,
            }
        }
    }

    /// How many bytes are still to come, when it is known.
    fn left(&self) -> Option<u64> {
        let size = self.ledger.job.expected.size?;
        Some(size.saturating_sub(self.verifier.length()))
    }

    /// Whether the digest is known and agrees with what has arrived.
    fn is_verified(&self) -> bool {
        self.ledger.job.expected.is_content_addressed() && self.verifier.clone().finish().is_ok()
    }

    /// Whether bytes of this mirror may follow those that have arrived.
    fn can_resume_on(&self, mirror: MirrorId) -> bool {
        if self.verifier.length() == 0 {
            return true;
        }
        !self.ledger.whole_file_only(mirror) && self.is_same_file_on(mirror)
    }

    /// Whether the next bytes of this mirror are certain to be of the file of which bytes have arrived, or
    /// the digest would show that they are not.
    fn is_same_file_on(&self, mirror: MirrorId) -> bool {
        let is_only_one = self.contributors.iter().all(|other| *other == mirror);
        if self.ledger.job.expected.is_content_addressed() {
            !self.one_mirror_only || is_only_one
        } else {
            is_only_one && self.ledger.has_strong_version(mirror)
        }
    }

    async fn restart(&mut self, sink: &mut dyn Sink) -> Result<(), FetchError> {
        self.ledger.restarted(self.verifier.length());
        for mirror in &self.contributors {
            self.ledger.forget_version(*mirror);
        }
        self.verifier = Verifier::new(self.ledger.job.expected);
        self.contributors.clear();
        self.rejection = None;
        let restarted = sink.restart().await;
        restarted.map_err(|source| self.ledger.sink_error(source))
    }

    /// Sends the request. When the response is late, a second mirror receives the request as well,
    /// and the first response wins.
    async fn open(&mut self, exchange: Exchange) -> (Exchange, Result<Opened, BackendError>) {
        let left = self.left();
        let Some(after) = self.ledger.hedge_after(left, exchange.mirror()) else {
            let response = self.send(&exchange).await;
            return (exchange, response);
        };
        let hedge;
        let (is_first, response, lost) = {
            let mut first = pin!(self.send(&exchange));
            if let Ok(response) = timeout(after, &mut first).await {
                hedge = None;
                (true, response, None)
            } else {
                hedge = self.hedge(exchange.mirror());
                if let Some(hedge) = &hedge {
                    let second = pin!(self.send(hedge));
                    match select(first, second).await {
                        Either::Left((Err(error), rest)) => (false, rest.await, Some(error)),
                        Either::Right((Err(error), rest)) => (true, rest.await, Some(error)),
                        Either::Left((response, _)) => (true, response, None),
                        Either::Right((response, _)) => (false, response, None),
                    }
                } else {
                    (true, first.await, None)
                }
            }
        };
        let (kept, other) = match hedge {
            None => (exchange, None),
            Some(hedge) if is_first => (exchange, Some(hedge)),
            Some(hedge) => (hedge, Some(exchange)),
        };
        match (other, lost) {
            (Some(other), Some(error)) => {
                self.ledger.fail(other, error, 0);
            }
            // It may have sent the whole response by now.
            (Some(other), None) => other.cancel_wasting(left.unwrap_or(0)),
            (None, _) => {}
        }
        (kept, response)
    }

    /// A second request, to another mirror that is no worse.
    fn hedge(&self, mirror: MirrorId) -> Option<Exchange> {
        let pick = self.ledger.choose_now(self.left(), [mirror])?;
        let is_last_resort = matches!(pick.why, Why::LastResort(_) | Why::Retry { .. });
        (!is_last_resort && self.can_resume_on(pick.mirror))
            .then(|| self.ledger.begin(&pick, self.verifier.length()))
    }

    async fn send(&self, exchange: &Exchange) -> Result<Opened, BackendError> {
        let offset = self.verifier.length();
        let validators = self.ledger.job.validators.get(exchange.url());
        let validators = validators.filter(|known| offset == 0 && !known.is_empty());
        match exchange.send(offset, validators).await {
            Ok(Some(response)) => Ok(Opened::Body(Box::new(response))),
            Ok(None) => Ok(Opened::NotModified(validators.cloned().unwrap_or_default())),
            Err(BackendError::BeyondEnd { .. }) if self.is_verified() => Ok(Opened::Complete),
            Err(error) => Err(error),
        }
    }

    /// What follows the header of a response, up to the complete and verified file.
    async fn attempt(
        &mut self,
        exchange: &Exchange,
        opened: Result<Opened, BackendError>,
        sink: &mut dyn Sink,
    ) -> Result<Complete, Failure> {
        let validators = match opened? {
            Opened::NotModified(validators) => {
                let file = None;
                return Ok(Complete { file, validators });
            }
            Opened::Complete => Validators::default(),
            Opened::Body(response) => self.receive(exchange, response, sink).await?,
        };
        exchange.body_ended();
        let file = Some(self.verify(exchange, sink).await?);
        Ok(Complete { file, validators })
    }

    /// Takes the body of a response to its end.
    async fn receive(
        &mut self,
        exchange: &Exchange,
        mut response: Box<Response>,
        sink: &mut dyn Sink,
    ) -> Result<Validators, Failure> {
        let mirror = exchange.mirror();
        let offset = self.verifier.length();
        if offset == 0 {
            self.ledger.forget_version(mirror);
        }
        if !self.ledger.note_version(mirror, &response.validators) {
            let url = exchange.url().to_owned();
            return Err(BackendError::Changed { url }.into());
        }
        loop {
            let next = response.next().await;
            self.ledger.wasted += response.take_skipped();
            let piece = match next {
                Ok(Some(piece)) => piece,
                Ok(None) if response.is_partial() => {
                    let expected = response.end().unwrap_or(u64::MAX);
                    let got = self.verifier.length();
                    if got - offset >= MIN_PROGRESS {
                        return Err(Failure::Partial);
                    }
                    let url = exchange.url().to_owned();
                    return Err(BackendError::Short { url, expected, got }.into());
                }
                Ok(None) => return Ok(response.validators),
                Err(_) if response.end().is_none() && self.is_verified() => {
                    return Ok(response.validators);
                }
                Err(error) => return Err(error.into()),
            };
            self.verifier.update(&piece);
            if self.contributors.last() != Some(&mirror) {
                self.contributors.push(mirror);
            }
            let bytes = piece.len() as u64;
            let begun = Instant::now();
            self.write(sink, piece, exchange.url()).await?;
            response.excuse(begun.elapsed());
            self.ledger.progress(bytes);
            if let Some(rate) = response.pace() {
                let have = self.verifier.length();
                let left = response.end().map(|end| end.saturating_sub(have));
                // Without a digest no other mirror can continue, and what is here would be lost.
                let is_addressed = self.ledger.job.expected.is_content_addressed();
                let again = if is_addressed { 0 } else { have };
                let least = self.ledger.min_throughput(self.left(), mirror);
                if is_worth_leaving(rate, least, left, again) {
                    let url = exchange.url().to_owned();
                    return Err(BackendError::Slow { url, rate }.into());
                }
            }
        }
    }

    async fn write(&mut self, sink: &mut dyn Sink, piece: Bytes, url: &str) -> Result<(), Failure> {
        if self.rejection.is_some() {
            return Ok(());
        }
        match sink.write(piece).await {
            Ok(()) => Ok(()),
            // Either the bytes are wrong, or the file is right and unusable. Only the digest of the
            // file decides, so the rest is hashed without the sink.
            Err(error @ SinkError::Rejected(_))
                if self.ledger.job.expected.is_content_addressed() =>
            {
                self.rejection = Some(error);
                Ok(())
            }
            Err(SinkError::Rejected(source)) => Err(BackendError::Unusable {
                url: url.to_owned(),
                source,
            }
            .into()),
            Err(error) => Err(Failure::Sink(error)),
        }
    }

    /// Verifies a complete body.
    async fn verify(
        &mut self,
        exchange: &Exchange,
        sink: &mut dyn Sink,
    ) -> Result<(Sha256, u64), Failure> {
        let url = || exchange.url().to_owned();
        let length = self.verifier.length();
        let sha256 =
            self.verifier.clone().finish().map_err(|source| {
                Failure::Mismatch(BackendError::Corrupt { url: url(), source })
            })?;
        if let Some(rejection) = self.rejection.take() {
            return Err(Failure::Sink(rejection));
        }
        match sink.finish().await {
            Ok(()) => Ok((sha256, length)),
            Err(SinkError::Rejected(source))
                if !self.ledger.job.expected.is_content_addressed() =>
            {
                let error = BackendError::Unusable { url: url(), source };
                Err(Failure::Mismatch(error))
            }
            Err(error) => Err(Failure::Sink(error)),
        }
    }

    /// Records a failure after which `gained` bytes of this mirror are in the verifier.
    async fn failed(
        &mut self,
        exchange: Exchange,
        error: BackendError,
        gained: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), FetchError> {
        let is_corrupt = error.class() == Class::Corrupt;
        // Bytes that the next mirror will not continue are no progress.
        let is_kept = self.is_same_file_on(exchange.mirror())
            && !self.one_mirror_only
            && !is_corrupt
            && !error.is_about_ranges()
            && !self.ledger.whole_file_only(exchange.mirror());
        self.ledger
            .fail(exchange, error, if is_kept { gained } else { 0 });
        if is_corrupt && gained > 0 {
            self.restart(sink).await?;
        }
        Ok(())
    }

    /// Records a digest mismatch. A mirror that sent the whole file failed; of several, it is not
    /// known which.
    async fn mismatch(
        &mut self,
        exchange: Exchange,
        error: BackendError,
        sink: &mut dyn Sink,
    ) -> Result<(), FetchError> {
        let mirror = exchange.mirror();
        for mirror in self.contributors.clone() {
            self.ledger.check_version(mirror).await;
        }
        let changed = self.ledger.take_changed();
        if self
            .contributors
            .iter()
            .any(|other| changed.contains(other))
        {
            // Bytes of two versions were mixed.
            self.ledger.changed(exchange);
        } else if self.contributors.iter().all(|other| *other == mirror) {
            self.ledger.fail(exchange, error, 0);
        } else {
            self.one_mirror_only = true;
            self.ledger.leave(exchange, error);
        }
        self.restart(sink).await
    }
}
