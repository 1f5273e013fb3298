//! How long a job waits for mirrors that are away, when no other is left.

use std::time::Duration;

use tokio::time::Instant;

use crate::EngineOptions;

/// The outage that a job waits for. It ends with the first bytes that arrive.
#[derive(Debug)]
pub(crate) struct Outage {
    limit: Duration,
    since: Option<Instant>,
    pauses: u32,
}

impl Outage {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(5);

    pub(crate) fn new(options: &EngineOptions) -> Self {
        Self {
            limit: options.retry_for,
            since: None,
            pauses: 0,
        }
    }

    /// The pause before the next round of attempts; `None` when the time is up.
    pub(crate) fn pause(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let left = self.limit.saturating_sub(now - since);
        let pause = Self::SHORTEST.saturating_mul(1 << self.pauses.min(8));
        self.pauses += 1;
        (!left.is_zero()).then(|| pause.min(Self::LONGEST).min(left))
    }

    /// Bytes have arrived.
    pub(crate) fn end(&mut self) {
        self.since = None;
        self.pauses = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pauses_grow_and_add_up_to_the_limit() {
        let mut outage = Outage::new(&EngineOptions {
            retry_for: Duration::from_secs(20),
            ..EngineOptions::default()
        });
        let mut pauses = Vec::new();
        while let Some(pause) = outage.pause() {
            pauses.push(pause.as_secs());
            tokio::time::sleep(pause).await;
        }
        assert_eq!(pauses, [1, 2, 4, 5, 5, 3]);
        outage.end();
        assert_eq!(outage.pause(), Some(Outage::SHORTEST));
    }
}
