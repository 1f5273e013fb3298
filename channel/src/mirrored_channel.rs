//! A channel together with the mirrors that have its files.

use taipan_transfer::MirrorSet;

use crate::channel::Channel;

/// A channel and its mirrors.
#[derive(Debug, Clone)]
pub struct MirroredChannel {
    /// The channel.
    pub channel: Channel,
    /// Where its files are fetched from.
    pub mirrors: MirrorSet,
}
