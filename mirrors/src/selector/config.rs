use std::time::Duration;

/// How a [`Selector`](crate::Selector) behaves. The defaults suit one client that fetches some
/// hundred files.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorConfig {
    /// A number that differs from client to client, so that a thousand of them do not come back to
    /// a recovering mirror in step.
    pub seed: u64,
    /// The country of the client, as two upper-case letters: mirrors there are assumed to be nearer
    /// until they are measured.
    pub country: Option<String>,
    /// The network that the client is in, by any name: a default route, a proxy. Speeds measured in
    /// one network are not believed in another.
    pub network: String,
    /// The most requests in flight on one mirror that names no limit of its own.
    pub max_connections: u32,
    /// How often one job may try one mirror.
    pub attempts_per_mirror: u32,
    /// How long to wait for a good mirror that pauses before a worse one is asked.
    pub patience: Duration,
    /// The longest pause that a `Retry-After` may impose.
    pub max_retry_after: Duration,
    /// The failures in a row that open the circuit of a mirror that has worked before. One that has
    /// never worked gets a single one.
    pub failures_to_open: u32,
    /// The first pause of an open circuit; it doubles with each failed trial.
    pub backoff: Duration,
    /// The longest pause of an open circuit.
    pub max_backoff: Duration,
    /// How long it is remembered that a mirror lacks a path, is behind or wants credentials.
    pub memory: Duration,
    /// The time after which a quarantine has lost half of its weight across runs.
    pub quarantine: Duration,
    /// The share of the time that may go into learning about mirrors which are not the best.
    pub exploration: f64,
    /// The largest request, in bytes, that explores.
    pub exploration_bytes: u64,
    /// The largest request, in bytes, that is hedged.
    pub hedge_bytes: u64,
    /// The share of all bytes that hedging may fetch in vain.
    pub hedge_share: f64,
    /// The longest time to a first byte, and the longest without one once the body flows.
    pub idle_timeout: Duration,
}

impl Default for SelectorConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            country: None,
            network: String::new(),
            max_connections: 16,
            attempts_per_mirror: 3,
            patience: Duration::from_secs(10),
            max_retry_after: Duration::from_mins(5),
            failures_to_open: 3,
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_mins(2),
            memory: Duration::from_mins(10),
            quarantine: Duration::from_hours(24),
            exploration: 0.04,
            exploration_bytes: 1 << 20,
            hedge_bytes: 1 << 20,
            hedge_share: 0.05,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl SelectorConfig {
    /// The same with every value in the range in which arithmetic on it is safe.
    pub(crate) fn bounded(mut self) -> Self {
        /// No pause, timeout or memory is longer.
        const LONGEST: Duration = Duration::from_hours(30 * 24);
        for duration in [
            &mut self.patience,
            &mut self.max_retry_after,
            &mut self.backoff,
            &mut self.max_backoff,
            &mut self.memory,
            &mut self.quarantine,
            &mut self.idle_timeout,
        ] {
            *duration = (*duration).min(LONGEST);
        }
        for share in [&mut self.exploration, &mut self.hedge_share] {
            *share = if share.is_nan() {
                0.0
            } else {
                share.clamp(0.0, 1.0)
            };
        }
        // No answer comes in no time.
        self.idle_timeout = self.idle_timeout.max(Duration::from_millis(10));
        self
    }
}
