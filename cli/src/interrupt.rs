//! Ctrl-C and termination: the first asks all work to stop and clean up, the second ends it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// Whether the user wants us to stop.
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

    /// Starts to listen for signals; within a runtime.
    pub(crate) fn listen(&self) {
        let interrupt = self.clone();
        tokio::spawn(async move {
            let terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = terminate else { return };
            loop {
                tokio::select! {
                    // Cancel-safe, both.
                    result = tokio::signal::ctrl_c() => if result.is_err() { return },
                    _ = terminate.recv() => {}
                }
                if interrupt.flag.swap(true, Ordering::SeqCst) {
                    // The second time. What is half-done is repaired by the next run.
                    end_now();
                }
                interrupt.notify.notify_waiters();
            }
        });
    }

    /// For blocking work, which looks at it now and then.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.flag
    }

    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// Runs `work` until it ends or the user wants us to stop; `None` in the latter case, with
    /// `work` dropped.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let stopped = async {
            loop {
                let notified = self.notify.notified();
                if self.is_set() {
                    return;
                }
                // The time limit closes the gap between looking and waiting.
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

#[expect(clippy::exit, reason = "the user has asked for it twice")]
fn end_now() -> ! {
    std::process::exit(i32::from(crate::exit::Exit::Interrupted as u8))
}
