//! Blocking work, from async code.

use crate::SinkError;

/// Runs `work` on a thread for blocking work. A panic in it becomes a [`SinkError`].
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(SinkError::Failed(error.into())))
}
