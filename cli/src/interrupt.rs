//! SIGINT and SIGTERM: the first signal stops all work with clean-up, the second one ends the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// Whether the user has interrupted the command.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    flag: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Interrupt {
    pub(crate) fn new() -> Self {
        Self {
            flag: Arc::default(),
            notify: Arc::default(),
        }
    }

    /// Starts to listen for signals. Call it within a runtime.
    pub(crate) fn listen(&self) {
        let interrupt = self.clone();
        tokio::spawn(async move {
            let terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = terminate else { return };
            loop {
                tokio::select! {
                    // Both are cancel-safe.
                    result = tokio::signal::ctrl_c() => if result.is_err() { return },
                    _ = terminate.recv() => {}
                }
                if interrupt.flag.swap(true, Ordering::SeqCst) {
                    // The second signal. The next run repairs the environment.
                    end_now();
                }
                interrupt.notify.notify_waiters();
            }
        });
    }

    /// The flag that blocking work polls.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.flag
    }

    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// Runs `work` until it ends or is interrupted. `None`: interrupted, and `work` is dropped.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let stopped = async {
            loop {
                let notified = self.notify.notified();
                if self.is_set() {
                    return;
                }
                // The timeout covers a signal between the check of the flag and the wait.
                let _ = tokio::time::timeout(Duration::from_millis(200), notified).await;
            }
        };
        tokio::select! {
            biased;
            () = stopped => None,
            result = work => Some(result),
        }
    }
}

#[expect(clippy::exit, reason = "the user has interrupted twice")]
fn end_now() -> ! {
    std::process::exit(i32::from(crate::exit::Exit::Interrupted as u8))
}
