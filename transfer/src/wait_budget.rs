//! The wait budget: how long a job waits for mirrors in backoff.

use std::time::Duration;

use taipan_mirrors::{DemotionReason, Time, Why};
use tokio::{sync::futures::Notified, time::timeout};

use crate::{EngineOptions, MirrorSet};

/// Longer than the pause to which the selector cuts an open circuit when no mirror is left.
const LONG_PAUSE: Duration = Duration::from_secs(15);

/// The remaining time that a job may wait.
#[derive(Debug)]
pub(crate) struct WaitBudget {
    usual: Duration,
    left: Duration,
    throttled: Duration,
}

impl WaitBudget {
    pub(crate) fn new(options: &EngineOptions) -> Self {
        Self {
            usual: options.wait_budget,
            left: options.wait_budget,
            throttled: options.throttled_wait_budget,
        }
    }

    /// Renews the budget after progress, so that it covers the longest backoff.
    pub(crate) fn renew(&mut self) {
        self.left = self.usual.max(LONG_PAUSE);
    }

    /// Whether a wait of this length is within the budget.
    pub(crate) fn allows(&mut self, pause: Duration, why: &Why) -> bool {
        self.left(why).is_none_or(|left| pause <= *left)
    }

    /// What is left for waits with this reason; `None` if they do not use the budget.
    fn left(&mut self, why: &Why) -> Option<&mut Duration> {
        match why {
            // A request under way will end.
            Why::Busy { .. }
            | Why::WaitingForBetter { .. }
            | Why::Demoted(DemotionReason::OnTrial) => None,
            Why::Demoted(DemotionReason::Throttled { .. }) => Some(&mut self.throttled),
            _ => Some(&mut self.left),
        }
    }

    /// Waits until `until`, or until a request to these mirrors ends. Returns `false` at once if that
    /// exceeds the budget. `changed` was armed before the state was read, so that no wake-up is lost
    /// in between.
    pub(crate) async fn wait(
        &mut self,
        mirrors: &MirrorSet,
        until: Time,
        why: Why,
        changed: Notified<'_>,
    ) -> bool {
        let now = mirrors.now();
        let pause = until.since(now).max(Duration::from_millis(1));
        if !self.allows(pause, &why) {
            return false;
        }
        // Cancel-safe: both only wait.
        let _ = timeout(pause, changed).await;
        if let Some(left) = self.left(&why) {
            *left = left.saturating_sub(mirrors.now().since(now));
        }
        true
    }
}
