//! Arbitration: which of several mirrors sent the wrong bytes of a file.
//!
//! 1. Samples of each mirror's bytes are compared with those of witnesses. Where two mirrors agree against a third, its
//!    bytes are fetched again from others.
//! 2. If that shows nothing, each mirror's bytes in turn are replaced by those of others.
//! 3. In the end the whole file is requested from each mirror.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use futures_util::future::join_all;
use taipan_mirrors::MirrorId;
use tokio::time::timeout;

use crate::{
    Attempt, FetchError, Sha256, VerifyError,
    exchange::{Timeouts, WholeFile},
    fetch::{partial::Partial, segments::SegmentedFetch},
    ledger::Ledger,
};

/// How many bytes of a mirror are compared with those of another at a time.
const SAMPLE_BYTES: u64 = 1 << 20;

/// How many samples are taken of what one mirror sent.
const SAMPLES: usize = 3;

/// A sample whose connection, or turn, takes longer is given up.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What was tried already to find the mirror.
#[derive(Debug, Default)]
pub(crate) struct Arbitration {
    has_begun: bool,
    has_compared: bool,
    /// The mirrors whose bytes were replaced by those of others.
    replaced: Vec<Option<MirrorId>>,
    /// The mirrors from which the whole file was requested.
    alone: Vec<MirrorId>,
}

/// A range that one mirror sent, and the mirror to compare it with.
struct Sample {
    mirror: MirrorId,
    range: Range<u64>,
    witness: MirrorId,
}

impl SegmentedFetch<'_, '_> {
    /// Fetches the whole file, and replaces wrong bytes until its digest is right.
    pub(crate) async fn fetch(&mut self) -> Result<Sha256, FetchError> {
        let all = self.all();
        self.fill(&all).await?;
        let mut arbitration = Arbitration::default();
        loop {
            match self.blocking(Partial::verify).await? {
                Ok(sha256) => return Ok(sha256),
                Err(error) => {
                    let is_first = !std::mem::replace(&mut arbitration.has_begun, true);
                    if !is_first || !self.replace_earlier_versions().await? {
                        self.replace_wrong(&mut arbitration, &error).await?;
                    }
                }
            }
        }
    }

    /// Fetches the bytes of mirrors again on which the file was replaced meanwhile. No mirror is at fault. Returns whether
    /// there are any.
    async fn replace_earlier_versions(&mut self) -> Result<bool, FetchError> {
        let senders: BTreeSet<MirrorId> = self.sources.iter().filter_map(|(_, it)| it).collect();
        for mirror in senders {
            self.ledger.check_version(mirror).await;
        }
        let changed = self.ledger.take_changed().into_iter();
        let earlier: Vec<Range<u64>> = changed.flat_map(|it| self.sent_by(Some(it))).collect();
        if !earlier.is_empty() {
            self.replace(&earlier).await?;
        }
        Ok(!earlier.is_empty())
    }

    /// Replaces some of the bytes of a wrong file, so that it is worth another verification.
    async fn replace_wrong(
        &mut self,
        arbitration: &mut Arbitration,
        error: &VerifyError,
    ) -> Result<(), FetchError> {
        let mut shares: BTreeMap<Option<MirrorId>, u64> = BTreeMap::new();
        for (range, mirror) in self.sources.iter() {
            *shares.entry(mirror).or_default() += range.end - range.start;
        }
        // The last replacement has not helped, so its mirror was suspended without reason.
        if let Some(Some(mirror)) = arbitration.replaced.last().copied() {
            self.suspended.retain(|other| *other != mirror);
        }
        if shares.len() == 1 {
            if let Some((Some(mirror), _)) = shares.first_key_value() {
                self.accuse(*mirror, error);
            }
            return self.replace(&self.all()).await;
        }
        if !std::mem::replace(&mut arbitration.has_compared, true)
            && let Some(accused) = self.compare().await?
        {
            tracing::debug!(mirror = ?accused, "two other mirrors agree against it");
            self.accuse(accused, error);
            // Others may have sent wrong bytes, too.
            arbitration.has_compared = false;
            return self.replace(&self.sent_by(Some(accused))).await;
        }
        let mut untried: Vec<(u64, Option<MirrorId>)> = shares
            .iter()
            .filter(|(mirror, _)| !arbitration.replaced.contains(mirror))
            .map(|(mirror, share)| (*share, *mirror))
            .collect();
        // Bytes of unknown source first, then the cheapest.
        untried.sort_unstable_by_key(|(share, mirror)| (mirror.is_some(), *share));
        if let Some((_, suspect)) = untried.first().copied() {
            arbitration.replaced.push(suspect);
            self.suspended.extend(suspect);
            match self.replace(&self.sent_by(suspect)).await {
                Ok(()) => {
                    let is_right = self.blocking(Partial::verify).await?.is_ok();
                    if is_right && let Some(mirror) = suspect {
                        self.accuse(mirror, error);
                    }
                    return Ok(());
                }
                Err(sink @ FetchError::Sink { .. }) => return Err(sink),
                // No other mirror has these bytes: only the last step is left.
                Err(FetchError::Exhausted { attempts, .. }) => self.ledger.restore(attempts),
                Err(_) => {}
            }
        }
        self.fetch_from_one(arbitration, error).await
    }

    /// Fetches the whole file from the next mirror alone.
    async fn fetch_from_one(
        &mut self,
        arbitration: &mut Arbitration,
        error: &VerifyError,
    ) -> Result<(), FetchError> {
        if let Some(last) = arbitration.alone.last().copied() {
            self.accuse(last, error);
        }
        loop {
            let mut left = self.ledger.mirrors.ids().filter(|mirror| {
                !arbitration.alone.contains(mirror) && !self.ledger.is_accused(*mirror)
            });
            let Some(mirror) = left.next() else {
                return Err(self.ledger.exhausted(Vec::new()));
            };
            arbitration.alone.push(mirror);
            let others = self.ledger.mirrors.ids().filter(|id| *id != mirror);
            let suspended = std::mem::replace(&mut self.suspended, others.collect());
            let result = self.replace(&self.all()).await;
            self.suspended = suspended;
            match result {
                Err(FetchError::Exhausted { attempts, .. }) => self.ledger.restore(attempts),
                other => return other,
            }
        }
    }

    /// The whole file.
    fn all(&self) -> Vec<Range<u64>> {
        std::iter::once(0..self.size).collect()
    }

    /// The bytes that came from a mirror.
    fn sent_by(&self, mirror: Option<MirrorId>) -> Vec<Range<u64>> {
        let theirs = self.sources.iter().filter(|(_, from)| *from == mirror);
        theirs.map(|(range, _)| range).collect()
    }

    /// Fetches ranges again.
    async fn replace(&mut self, ranges: &[Range<u64>]) -> Result<(), FetchError> {
        self.forget(ranges).await?;
        self.fill(ranges).await
    }

    /// Forgets ranges whose bytes are wrong.
    pub(crate) async fn forget(&mut self, ranges: &[Range<u64>]) -> Result<(), FetchError> {
        let mut lost = 0;
        for range in ranges {
            lost += self.sources.covered(range.clone());
            self.sources.remove(range.clone());
        }
        self.has_replaced = true;
        self.ledger.restarted(lost);
        let ranges = ranges.to_vec();
        self.blocking(move |partial| partial.forget(&ranges)).await
    }

    /// Records that a mirror sent wrong bytes. The job does not use it again.
    pub(crate) fn accuse(&mut self, mirror: MirrorId, error: &VerifyError) {
        let bytes = self.sent_by(Some(mirror)).into_iter();
        let bytes = bytes.map(|range| range.end - range.start).sum();
        self.ledger.accuse(mirror, error, bytes);
    }

    /// Compares samples of what each mirror sent with what others send. Where two mirrors agree
    /// against a third, the third sent wrong bytes.
    async fn compare(&mut self) -> Result<Option<MirrorId>, FetchError> {
        let witnesses: Vec<MirrorId> = self
            .ledger
            .usable()
            .into_iter()
            .filter(|mirror| !self.suspended.contains(mirror))
            .collect();
        let mut samples = Vec::new();
        for mirror in self.ledger.mirrors.ids() {
            for range in sample(&self.sent_by(Some(mirror))) {
                let mut others = witnesses.iter().copied().filter(|other| *other != mirror);
                let count = witnesses.len() - usize::from(witnesses.contains(&mirror));
                if count > 0
                    && let Some(witness) = others.nth(samples.len() % count)
                {
                    samples.push(Sample {
                        mirror,
                        range,
                        witness,
                    });
                }
            }
        }
        for (sample, theirs) in self.fetch_samples(&samples).await {
            let range = sample.range.clone();
            let ours = self.blocking(move |partial| partial.read(range)).await?;
            if ours == theirs {
                continue;
            }
            for third in &witnesses {
                if *third == sample.mirror || *third == sample.witness {
                    continue;
                }
                let judgement = fetch_sample(self.ledger, *third, sample.range.clone()).await;
                let Some(judgement) = self.take_sample(judgement) else {
                    continue;
                };
                if judgement == ours {
                    return Ok(Some(sample.witness));
                }
                if judgement == theirs {
                    return Ok(Some(sample.mirror));
                }
            }
        }
        Ok(None)
    }

    /// Fetches samples, from all witnesses at once and from each one at a time.
    async fn fetch_samples<'s>(&mut self, samples: &'s [Sample]) -> Vec<(&'s Sample, Vec<u8>)> {
        let mut by_witness: BTreeMap<MirrorId, Vec<&Sample>> = BTreeMap::new();
        for sample in samples {
            by_witness.entry(sample.witness).or_default().push(sample);
        }
        let ledger = &*self.ledger;
        let queues = by_witness.into_iter().map(|(witness, queue)| async move {
            let mut fetched = Vec::new();
            for sample in queue {
                let theirs = fetch_sample(ledger, witness, sample.range.clone()).await;
                fetched.push((sample, theirs));
            }
            fetched
        });
        let fetched = join_all(queues).await.into_iter().flatten();
        let fetched: Vec<_> = fetched.collect();
        let taken = fetched.into_iter();
        taken
            .filter_map(|(sample, theirs)| Some((sample, self.take_sample(theirs)?)))
            .collect()
    }

    /// The bytes of a sample. A failed one is listed.
    fn take_sample(&mut self, sample: Result<Vec<u8>, Option<Attempt>>) -> Option<Vec<u8>> {
        match sample {
            Ok(bytes) => {
                self.ledger.wasted += bytes.len() as u64;
                Some(bytes)
            }
            Err(attempt) => {
                if let Some(attempt) = attempt {
                    self.ledger.list(attempt);
                }
                None
            }
        }
    }
}

/// The bytes of a range as this mirror has them; without them, the failed attempt if there was one.
async fn fetch_sample(
    ledger: &Ledger<'_>,
    witness: MirrorId,
    range: Range<u64>,
) -> Result<Vec<u8>, Option<Attempt>> {
    let turn = timeout(SAMPLE_TIMEOUT, ledger.mirrors.capacity(witness));
    turn.await.map_err(|_| None)?;
    let timeouts = Timeouts {
        header: SAMPLE_TIMEOUT,
        stall: SAMPLE_TIMEOUT,
    };
    let exchange = ledger.begin_on(witness, timeouts, range.start, "sample to compare");
    let length = range.end - range.start;
    let receive = async {
        let request = exchange.send_range(range, WholeFile::Refuse);
        let mut response = request.await?;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length
            && exchange.elapsed() < SAMPLE_TIMEOUT
            && let Some(piece) = response.next().await?
        {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    // Whether the bytes are right is known only after they have been compared. The throughput
    // counts, and so does a failure.
    match receive.await {
        Ok(bytes) => {
            exchange.cancel();
            Some(bytes)
                .filter(|bytes| bytes.len() as u64 == length)
                .ok_or(None)
        }
        Err(error) => Err(Some(exchange.fail(error))),
    }
}

/// Samples of the ranges that a mirror sent: of the first, of one in the middle and of the last; all
/// of them when they are short.
fn sample(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if total <= SAMPLE_BYTES {
        return ranges.to_vec();
    }
    let mut samples: Vec<Range<u64>> = Vec::new();
    for number in 0..SAMPLES as u64 {
        // How many of the bytes lie before the sample.
        let mut skip = total.saturating_sub(SAMPLE_BYTES) * number / (SAMPLES as u64 - 1);
        for range in ranges {
            let length = range.end - range.start;
            if skip < length {
                let start = range.start + skip;
                let sample = start..range.end.min(start + SAMPLE_BYTES);
                if samples.last().is_none_or(|last| last.end <= sample.start) {
                    samples.push(sample);
                }
                break;
            }
            skip -= length;
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_within_the_ranges() {
        assert_eq!(sample(&[]), []);
        assert_eq!(sample(&[10..20, 30..40]), [10..20, 30..40]);
        let megabyte = 1 << 20;
        let ranges = [0..megabyte, 10 * megabyte..20 * megabyte];
        let samples = sample(&ranges);
        assert_eq!(samples.len(), 3, "{samples:?}");
        for sample in samples {
            let within =
                |range: &Range<u64>| range.start <= sample.start && sample.end <= range.end;
            assert!(ranges.iter().any(within), "{sample:?}");
        }
    }
}
