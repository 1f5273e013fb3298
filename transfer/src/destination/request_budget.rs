//! A limit on the number of requests, for registries that count them.

use std::{sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep_until};

/// A maximum number of requests per minute, with a burst of one second's worth.
#[derive(Debug)]
pub(super) struct RequestBudget {
    /// Between two requests at the full rate.
    interval: Duration,
    next: Mutex<Instant>,
}

impl RequestBudget {
    pub(super) fn per_minute(requests: u32) -> Self {
        Self {
            interval: Duration::from_mins(1) / requests.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for the turn of one request.
    pub(super) async fn spend(&self) {
        let turn = {
            let mut next = self
                .next
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = Instant::now();
            let earliest = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
            let turn = (*next).max(earliest);
            *next = turn + self.interval;
            turn
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_spread_over_the_minute_after_a_burst() {
        let budget = RequestBudget::per_minute(600);
        let began = Instant::now();
        for _ in 0..100 {
            budget.spend().await;
        }
        let took = began.elapsed().as_secs_f64();
        assert!((8.5..=10.0).contains(&took), "{took}");
    }
}
