//! The options of a registry.

use std::io;

use super::auth::OciAuth;
use super::server::OciServer;
use crate::behaviour::Behaviour;
use crate::tls::Tls;

#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, each set by its name"
)]
pub(crate) struct Options {
    pub(super) referrers: bool,
    pub(super) without_single_post: bool,
    pub(super) without_mount: bool,
    pub(super) absolute_locations: bool,
    pub(super) drop_cut_sessions: bool,
    pub(super) max_chunk: Option<usize>,
    pub(super) max_tags: Option<usize>,
}

/// Options of an [`OciServer`].
#[derive(Debug)]
pub struct OciServerBuilder {
    auth: OciAuth,
    options: Options,
    behaviour: Behaviour,
    tls: Option<Tls>,
}

impl OciServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            auth: OciAuth::None,
            options: Options::default(),
            behaviour: Behaviour::default(),
            tls: None,
        }
    }

    #[must_use]
    pub fn auth(self, auth: OciAuth) -> Self {
        Self { auth, ..self }
    }

    /// Enables the referrers API; otherwise it is 404, and clients keep an index by tag.
    #[must_use]
    pub fn referrers(mut self) -> Self {
        self.options.referrers = true;
        self
    }

    /// Responds to `POST ?digest=` with a session instead of storing the blob.
    #[must_use]
    pub fn without_single_post(mut self) -> Self {
        self.options.without_single_post = true;
        self
    }

    /// Responds to a mount with a session.
    #[must_use]
    pub fn without_mount(mut self) -> Self {
        self.options.without_mount = true;
        self
    }

    /// Sends locations with scheme and host.
    #[must_use]
    pub fn absolute_locations(mut self) -> Self {
        self.options.absolute_locations = true;
        self
    }

    /// A truncated chunk ends its session, instead of keeping the bytes that arrived.
    #[must_use]
    pub fn drop_cut_sessions(mut self) -> Self {
        self.options.drop_cut_sessions = true;
        self
    }

    /// Refuses larger chunks with 416, as ghcr does above 4 MiB.
    #[must_use]
    pub fn max_chunk(mut self, bytes: usize) -> Self {
        self.options.max_chunk = Some(bytes);
        self
    }

    /// The maximum number of tags per response, for any `n`.
    #[must_use]
    pub fn max_tags(mut self, tags: usize) -> Self {
        self.options.max_tags = Some(tags.max(1));
        self
    }

    #[must_use]
    pub fn behaviour(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    /// Uses TLS.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    /// Starts the server. The only errors are those of binding a port.
    pub async fn start(self) -> io::Result<OciServer> {
        OciServer::start_with(self.auth, self.options, self.behaviour, self.tls).await
    }
}
