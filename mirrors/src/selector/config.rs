use std::time::Duration;

/// The configuration of a [`Selector`](crate::Selector). The defaults suit one client that fetches some
/// hundred files.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorConfig {
    /// A number that differs between clients, so that a thousand of them do not return to a recovering
    /// mirror at the same time.
    pub seed: u64,
    /// The preferred country, as two upper-case letters: mirrors there are assumed to be nearer until
    /// they are measured.
    pub country: Option<String>,
    /// A name for the network of the client, such as its default route or proxy. Estimates are kept
    /// per network.
    pub network: String,
    /// The maximum number of requests in flight on a mirror without a limit of its own.
    pub max_connections: u32,
    /// The maximum number of attempts of one job on one mirror.
    pub attempts_per_mirror: u32,
    /// How long a good mirror in backoff is preferred to a demoted one.
    pub patience: Duration,
    /// The maximum delay that a `Retry-After` can impose.
    pub max_retry_after: Duration,
    /// The number of consecutive failures that open the circuit breaker of a mirror that has worked
    /// before. For a mirror that has never worked it is one.
    pub failures_to_open: u32,
    /// The first backoff; it doubles with each failed trial.
    pub backoff: Duration,
    /// The longest backoff.
    pub max_backoff: Duration,
    /// How long a mirror stays demoted that lacks a path, is behind or rejected the credentials.
    pub memory: Duration,
    /// The half-life of distrust between runs.
    pub quarantine: Duration,
    /// The share of the time that exploration may cost.
    pub exploration: f64,
    /// The largest request, in bytes, that explores.
    pub exploration_bytes: u64,
    /// The largest request, in bytes, that is hedged.
    pub hedge_bytes: u64,
    /// The share of all bytes that hedging may waste.
    pub hedge_share: f64,
    /// The longest time to first byte, and between two pieces of a body.
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
    /// Clamps every value to the range in which arithmetic is safe.
    pub(crate) fn bounded(mut self) -> Self {
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
        self.idle_timeout = self.idle_timeout.max(Duration::from_millis(10));
        self
    }
}
