//! A plain web server over a site.

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use http::StatusCode;
use http::header;

use crate::behaviour::Behaviour;
use crate::object;
use crate::request::{Cut, Reply, Request};
use crate::server::{Handler, Server};
use crate::site::Site;
use crate::tls::Tls;

/// A web server for GET and HEAD, with ranges and conditional requests: HTTP/1.1, and HTTP/2 over
/// TLS.
///
/// It dereferences to [`Server`].
#[derive(Debug)]
pub struct HttpServer {
    server: Server,
    prefix: String,
}

impl HttpServer {
    /// A fast and correct server of this site.
    pub async fn start(site: Site) -> io::Result<Self> {
        Self::builder(site).start().await
    }

    pub fn builder(site: Site) -> HttpServerBuilder {
        HttpServerBuilder {
            site,
            behaviour: Behaviour::default(),
            credentials: None,
            prefix: String::new(),
            tls: None,
        }
    }

    /// The URL of the site: [`Server::url`] and the prefix with a slash.
    pub fn url(&self) -> String {
        format!("{}{}", self.server.url(), self.prefix)
    }
}

impl Deref for HttpServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Options of an [`HttpServer`].
#[derive(Debug)]
pub struct HttpServerBuilder {
    site: Site,
    behaviour: Behaviour,
    credentials: Option<(String, String)>,
    prefix: String,
    tls: Option<Tls>,
}

impl HttpServerBuilder {
    /// Uses TLS.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    #[must_use]
    pub fn behaviour(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    /// Requires Basic authentication with these credentials; 401 otherwise.
    #[must_use]
    pub fn basic_auth(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            credentials: Some((user.into(), password.into())),
            ..self
        }
    }

    /// Serves the site below this path; all other paths are 404.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        Self { prefix, ..self }
    }

    /// Starts the server. The only errors are those of binding a port.
    pub async fn start(self) -> io::Result<HttpServer> {
        let credentials = self
            .credentials
            .map(|(user, password)| basic(&user, &password));
        let handler = SiteHandler {
            site: self.site,
            credentials,
            prefix: format!("/{}", self.prefix),
        };
        let server = Server::start(self.behaviour, self.tls, |_| handler).await?;
        Ok(HttpServer {
            server,
            prefix: self.prefix,
        })
    }
}

/// The value of an `Authorization` header (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[derive(Debug)]
struct SiteHandler {
    site: Site,
    credentials: Option<String>,
    prefix: String,
}

impl SiteHandler {
    fn reply(&self, request: &Request) -> Reply {
        if let Some(credentials) = &self.credentials
            && request.header("authorization") != Some(credentials)
        {
            return Reply::text(StatusCode::UNAUTHORIZED, "text/plain", "who are you?\n")
                .with(header::WWW_AUTHENTICATE, "Basic realm=\"mock\"");
        }
        if !request.is_read() {
            return Reply::empty(StatusCode::METHOD_NOT_ALLOWED).with(header::ALLOW, "GET, HEAD");
        }
        let object = request
            .path
            .strip_prefix(&self.prefix)
            .and_then(|path| self.site.object(path));
        match object {
            Some(object) => {
                let mut reply = object::serve(request, &object);
                if request.path.rsplit('.').next() == Some("json") {
                    reply = reply.with(header::CONTENT_TYPE, "application/json");
                }
                reply
            }
            None => Reply::text(StatusCode::NOT_FOUND, "text/plain", "no such file\n"),
        }
    }
}

impl Handler for SiteHandler {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Result<Reply, Cut>> {
        Box::pin(async move { Ok(self.reply(&request)) })
    }
}
