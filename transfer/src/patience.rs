//! How long a job waits for mirrors that rest, when no other is left.

use std::time::Duration;

use taipan_mirrors::{Standing, Time, Why};
use tokio::{sync::futures::Notified, time::timeout};

use crate::{EngineOptions, MirrorSet};

/// Longer than the pause that the selector cuts an open circuit to when no mirror is left.
const LONG_PAUSE: Duration = Duration::from_secs(15);

/// What is left of the options' patience.
#[derive(Debug)]
pub(crate) struct Patience {
    usual: Duration,
    left: Duration,
    throttled: Duration,
}

impl Patience {
    pub(crate) fn new(options: &EngineOptions) -> Self {
        Self {
            usual: options.patience,
            left: options.patience,
            throttled: options.throttled_patience,
        }
    }

    /// The file comes nearer, so the longest pause of a mirror is worth waiting for.
    pub(crate) fn renew(&mut self) {
        self.left = self.usual.max(LONG_PAUSE);
    }

    /// Waits until then, or until something has changed with the mirrors; `false`, at once, when
    /// that is longer than there is patience for. `changed` was armed before the mirrors were
    /// looked at, so that no wake-up is lost in between.
    pub(crate) async fn wait(
        &mut self,
        mirrors: &MirrorSet,
        until: Time,
        why: Why,
        changed: Notified<'_>,
    ) -> bool {
        let now = mirrors.now();
        let pause = until.since(now).max(Duration::from_millis(1));
        let left = match why {
            // Somebody else's transfer will end; there is no harm in waiting.
            Why::Busy { .. }
            | Why::WaitingForBetter { .. }
            | Why::StandsBack(Standing::OnTrial) => None,
            Why::StandsBack(Standing::Throttled { .. }) => Some(&mut self.throttled),
            _ => Some(&mut self.left),
        };
        if left.as_ref().is_some_and(|left| pause > **left) {
            return false;
        }
        // Cancel-safe: both only wait.
        let _ = timeout(pause, changed).await;
        if let Some(left) = left {
            *left = left.saturating_sub(mirrors.now().since(now));
        }
        true
    }
}
