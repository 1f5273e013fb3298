//! A file that was put together from several mirrors is wrong. Whose bytes are?

use std::{collections::BTreeMap, ops::Range, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use taipan_mirrors::{Class, MirrorId};
use tokio::time::timeout;

use crate::{
    BackendError, ByteRange, Event, FetchError, GetRequest, GetResponse, Sha256, VerifyError,
    partial::Partial, segments::Segments,
};

/// How many bytes of a mirror are compared with those of another at a time.
const SAMPLE: u64 = 1 << 20;

/// How many samples are taken of what one mirror gave.
const SAMPLES: usize = 3;

/// A sample that takes longer is done without.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was tried already to find out.
#[derive(Debug, Default)]
pub(crate) struct Inquiry {
    has_compared: bool,
    /// Whose bytes were replaced by those of others.
    replaced: Vec<Option<MirrorId>>,
    /// Who was asked for all of it.
    alone: Vec<MirrorId>,
}

impl Segments<'_> {
    /// Fetches the whole file, whatever it takes to find out who serves wrong bytes.
    pub(crate) async fn fetch(&mut self) -> Result<Sha256, FetchError> {
        let all = self.all();
        self.fill(&all).await?;
        let mut inquiry = Inquiry::default();
        loop {
            match self.blocking(Partial::judge).await? {
                Ok(sha256) => return Ok(sha256),
                Err(error) => self.next_try(&mut inquiry, &error).await?,
            }
        }
    }

    /// The file is wrong: replaces some of it by better bytes, so that it is worth another look.
    ///
    /// Bytes of each mirror are compared with those of others. If that shows nothing, all that one
    /// mirror gave is replaced, then all that another gave; and in the end each one is asked for
    /// the whole file.
    async fn next_try(
        &mut self,
        inquiry: &mut Inquiry,
        error: &VerifyError,
    ) -> Result<(), FetchError> {
        let mut shares: BTreeMap<Option<MirrorId>, u64> = BTreeMap::new();
        for (range, mirror) in self.from.iter() {
            *shares.entry(mirror).or_default() += range.end - range.start;
        }
        // The last replacement has not helped, so it was in vain that its mirror was not asked.
        let was_replaced = inquiry.replaced.last().copied();
        if let Some(Some(mirror)) = was_replaced {
            self.banned.retain(|other| *other != mirror);
        }
        if let [only] = shares.keys().copied().collect::<Vec<_>>()[..] {
            if let Some(mirror) = only {
                self.accuse(mirror, error);
            }
            return self.replace(&self.all()).await;
        }
        if !std::mem::replace(&mut inquiry.has_compared, true)
            && let Some(liar) = self.compare().await?
        {
            tracing::debug!(job = %self.job.label, mirror = ?liar, "another two mirrors disagree with it");
            self.accuse(liar, error);
            // The others may be liars, too.
            inquiry.has_compared = false;
            return self.replace(&self.given_by(Some(liar))).await;
        }
        let mut untried: Vec<(u64, Option<MirrorId>)> = shares
            .iter()
            .filter(|(mirror, _)| !inquiry.replaced.contains(mirror))
            .map(|(mirror, share)| (*share, *mirror))
            .collect();
        // Of unknown origin first, then the cheapest.
        untried.sort_unstable_by_key(|(share, mirror)| (mirror.is_some(), *share));
        if let Some((_, suspect)) = untried.first().copied() {
            inquiry.replaced.push(suspect);
            self.banned.extend(suspect);
            let theirs = self.given_by(suspect);
            match self.replace(&theirs).await {
                Ok(()) => {
                    let is_right = self.blocking(Partial::judge).await?.is_ok();
                    if is_right && let Some(mirror) = suspect {
                        self.accuse(mirror, error);
                    }
                    return Ok(());
                }
                Err(sink @ FetchError::Sink { .. }) => return Err(sink),
                // Nobody else has it, so the next step is all that is left.
                Err(_) => {}
            }
        }
        self.alone(inquiry, error).await
    }

    /// Asks the next mirror for the whole file, and nobody else.
    async fn alone(
        &mut self,
        inquiry: &mut Inquiry,
        error: &VerifyError,
    ) -> Result<(), FetchError> {
        if let Some(last) = inquiry.alone.last().copied() {
            self.accuse(last, error);
        }
        loop {
            let mut left = self.mirrors.ids().filter(|mirror| {
                let is_known = |list: &[MirrorId]| list.contains(mirror);
                !is_known(&inquiry.alone) && !self.accused().any(|accused| accused == *mirror)
            });
            let Some(mirror) = left.next() else {
                return Err(self.exhausted(Vec::new()));
            };
            inquiry.alone.push(mirror);
            let banned = std::mem::take(&mut self.banned);
            self.banned = self.mirrors.ids().filter(|id| *id != mirror).collect();
            let result = self.replace(&self.all()).await;
            self.banned = banned;
            match result {
                Err(FetchError::Exhausted { attempts, .. }) => self.attempts = attempts,
                other => return other,
            }
        }
    }

    fn accused(&self) -> impl Iterator<Item = MirrorId> + '_ {
        self.attempts
            .iter()
            .filter(|attempt| attempt.class == Class::Corrupt)
            .map(|attempt| attempt.mirror)
    }

    /// The whole file.
    fn all(&self) -> Vec<Range<u64>> {
        std::iter::once(0..self.size).collect()
    }

    /// What a mirror gave.
    fn given_by(&self, mirror: Option<MirrorId>) -> Vec<Range<u64>> {
        let theirs = self.from.iter().filter(|(_, from)| *from == mirror);
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
            lost += self.from.covered(range.clone());
            self.from.remove(range.clone());
        }
        self.wasted += lost;
        self.has_replaced = true;
        self.engine.observer.event(&Event::Restarted {
            job: self.id,
            bytes: lost,
        });
        let ranges = ranges.to_vec();
        self.blocking(move |partial| partial.forget(&ranges)).await
    }

    /// It served wrong bytes: it is not asked again, and others are told.
    pub(crate) fn accuse(&mut self, mirror: MirrorId, error: &VerifyError) {
        if self.accused().any(|accused| accused == mirror) {
            return;
        }
        self.banned.push(mirror);
        let name = self.mirrors.describe(mirror, &self.job.target);
        let bytes = self.given_by(Some(mirror)).into_iter();
        let bytes = bytes.map(|range| range.end - range.start).sum();
        let mut flight = self.mirrors.start_unchosen(mirror, &self.job.target.path);
        flight.finish(Class::Corrupt, None);
        let (url, source) = (name.clone(), error.clone());
        self.note(mirror, name, BackendError::Corrupt { url, source }, bytes);
    }

    /// Compares samples of what each mirror gave with what others say. Where two mirrors agree
    /// against a third, that one is the liar.
    async fn compare(&mut self) -> Result<Option<MirrorId>, FetchError> {
        let mut samples = Vec::new();
        for mirror in self.mirrors.ids() {
            let theirs = self.given_by(Some(mirror));
            samples.extend(sample(&theirs).into_iter().map(|range| (mirror, range)));
        }
        let witnesses: Vec<MirrorId> = self
            .mirrors
            .ids()
            .filter(|id| !self.banned.contains(id))
            .collect();
        let mut questions = Vec::new();
        for (index, (mirror, range)) in samples.iter().enumerate() {
            let others: Vec<MirrorId> = witnesses
                .iter()
                .copied()
                .filter(|other| other != mirror)
                .collect();
            if !others.is_empty() {
                questions.push((*mirror, range.clone(), others[index % others.len()]));
            }
        }
        let answers = join_all(
            questions
                .iter()
                .map(|(_, range, other)| self.ask_for(*other, range.clone())),
        )
        .await;
        for ((mirror, range, other), theirs) in questions.into_iter().zip(answers) {
            let Some(theirs) = theirs else { continue };
            self.wasted += theirs.len() as u64;
            let read = range.clone();
            let ours = self.blocking(move |partial| partial.read(read)).await?;
            if ours == theirs {
                continue;
            }
            for third in &witnesses {
                if *third == mirror || *third == other {
                    continue;
                }
                let Some(judgement) = self.ask_for(*third, range.clone()).await else {
                    continue;
                };
                self.wasted += judgement.len() as u64;
                if judgement == ours {
                    return Ok(Some(other));
                }
                if judgement == theirs {
                    return Ok(Some(mirror));
                }
            }
        }
        Ok(None)
    }

    /// These bytes as this mirror has them; `None` when it does not give them soon.
    async fn ask_for(&self, mirror: MirrorId, range: Range<u64>) -> Option<Vec<u8>> {
        let length = usize::try_from(range.end - range.start).ok()?;
        let request = GetRequest {
            target: &self.job.target,
            expected: self.job.expected,
            range: ByteRange::new(range.start, range.end),
            validators: None,
        };
        let read = async {
            let answer = self.mirrors.backend(mirror).get(request).await.ok()?;
            let GetResponse::Body {
                start, mut body, ..
            } = answer
            else {
                return None;
            };
            let mut bytes = Vec::new();
            while bytes.len() < length
                && let Some(piece) = body.next().await
            {
                bytes.extend_from_slice(&piece.ok()?);
            }
            bytes.truncate(length);
            (start == range.start && bytes.len() == length).then_some(bytes)
        };
        timeout(PATIENCE, read).await.ok().flatten()
    }
}

/// Some ranges of those that a mirror gave: of the first, of one in the middle and of the last; all
/// of them when they are not long.
fn sample(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if total <= SAMPLE {
        return ranges.to_vec();
    }
    let mut samples: Vec<Range<u64>> = Vec::new();
    for number in 0..SAMPLES as u64 {
        // So many of their bytes lie before the sample.
        let mut skip = total.saturating_sub(SAMPLE) * number / (SAMPLES as u64 - 1);
        for range in ranges {
            let length = range.end - range.start;
            if skip < length {
                let start = range.start + skip;
                let sample = start..range.end.min(start + SAMPLE);
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
    fn samples_lie_within_what_was_given() {
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
