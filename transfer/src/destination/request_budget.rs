//! A limit on the number of requests, for registries that count them.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A maximum number of requests per minute, with a burst of one second's worth.
#[derive(Debug)]
pub(super) struct RequestBudget {
    /// Between two requests at the full rate.
    interval: Duration,
    next: Mutex<Instant>,
}

/// By host and requests per minute.
type Budgets = HashMap<(String, u32), Arc<RequestBudget>>;

/// The budgets of this process.
static OF_HOSTS: LazyLock<Mutex<Budgets>> = LazyLock::new(Mutex::default);

impl RequestBudget {
    /// The budget of a host, which all destinations on it share: a registry counts the requests of a user.
    pub(super) fn of_host(host: &str, per_minute: u32) -> Arc<Self> {
        let mut all = OF_HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = all.entry((host.to_owned(), per_minute));
        Arc::clone(budget.or_insert_with(|| Arc::new(Self::per_minute(per_minute))))
    }

    fn per_minute(requests: u32) -> Self {
        Self {
            interval: Duration::from_mins(1) / requests.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for the turn of one request.
    pub(super) async fn spend(&self) {
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
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

    #[test]
    fn destinations_on_one_host_share_a_budget() {
        let of = |host, rate| RequestBudget::of_host(host, rate);
        assert!(Arc::ptr_eq(&of("a.example", 60), &of("a.example", 60)));
        assert!(!Arc::ptr_eq(&of("a.example", 60), &of("b.example", 60)));
    }
}
