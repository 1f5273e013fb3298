//! A directory as an S3 service, in process.

use std::{net::SocketAddr, path::Path};

use hyper_util::rt::TokioIo;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use taipan_mirrors::{Location, S3Location};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

/// The name of the bucket.
pub(crate) const BUCKET: &str = "files";

/// An `s3s-fs` on a port of loopback. Its port and its connections are closed on drop.
#[derive(Debug)]
pub(crate) struct Bucket {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Bucket {
    /// Serves the directories below `root` as buckets: with these keys, or without authentication.
    pub(crate) async fn serve(root: &Path, keys: Option<(&str, &str)>) -> Self {
        let files = s3s_fs::FileSystem::new(root).unwrap();
        let mut builder = S3ServiceBuilder::new(files);
        if let Some((access, secret)) = keys {
            builder.set_auth(SimpleAuth::from_single(access, secret));
        }
        let service = builder.build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // They are aborted with this task.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service);
                    // A client may disconnect at any time.
                    let _ = connection.await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, task }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn location(&self) -> S3Location {
        location(&self.endpoint())
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The bucket at an endpoint, with keys.
pub(crate) fn location(endpoint: &str) -> S3Location {
    S3Location {
        endpoint: Some(endpoint.parse().unwrap()),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        ..S3Location::new(BUCKET, "")
    }
}

/// The same bucket without keys.
pub(crate) fn anonymous(location: S3Location) -> Location {
    Location::S3(S3Location {
        anonymous: true,
        ..location
    })
}
