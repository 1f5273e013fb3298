//! The HTTP client of the other backends, as a connector for the AWS SDK: buckets are reached
//! through the same proxies, with the same roots and client certificate, over the same connections.
//! The SDK is built without a client of its own.

use std::time::Duration;

use aws_sdk_s3::config::{
    HttpClient as SdkClient, RuntimeComponents, SharedHttpClient,
    http::{HttpRequest, HttpResponse},
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;

use crate::HttpClient;

#[derive(Debug, Clone)]
struct Connector {
    client: HttpClient,
    /// The longest time to the header of a response.
    limit: Option<Duration>,
}

/// A connector that uses the client without its credentials, which are not for buckets. It does not
/// follow redirects: a signature is for one host.
pub(crate) fn shared(client: &HttpClient) -> SharedHttpClient {
    SharedHttpClient::new(Connector {
        client: client.clone(),
        limit: None,
    })
}

impl Connector {
    /// For objects there is no read timeout: timeouts are the engine's. The credential chain sets
    /// a short one where a metadata service may be missing.
    fn limited(&self, settings: &HttpConnectorSettings) -> Self {
        let connect = settings.connect_timeout().unwrap_or_default();
        Self {
            client: self.client.clone(),
            limit: settings.read_timeout().map(|read| connect + read),
        }
    }
}

impl SdkClient for Connector {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.limited(settings))
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { client, limit } = self.clone();
        HttpConnectorFuture::new(async move {
            let sent = send(client, request);
            match limit {
                None => sent.await,
                Some(limit) => match tokio::time::timeout(limit, sent).await {
                    Ok(response) => response,
                    Err(elapsed) => Err(ConnectorError::timeout(elapsed.into())),
                },
            }
        })
    }
}

async fn send(client: HttpClient, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let request = request
        .try_into_http1x()
        .map_err(|error| ConnectorError::user(error.into()))?;
    let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))
        .map_err(|error| ConnectorError::user(error.into()))?;
    let response = client.execute(request).await.map_err(failed)?;
    let response = http::Response::from(response).map(SdkBody::from_body_1_x);
    HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
}

fn failed(error: reqwest::Error) -> ConnectorError {
    let timeout = error.is_timeout();
    // The URL of a signed request may contain its signature.
    let error = Box::new(error.without_url());
    if timeout {
        ConnectorError::timeout(error)
    } else {
        ConnectorError::io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A metadata service that is not there must not delay a request to a public bucket.
    #[tokio::test(start_paused = true)]
    async fn a_silent_service_ends_with_the_timeout_that_the_sdk_sets() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = HttpClient::new(&crate::HttpOptions::default()).unwrap();
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(Duration::from_secs(1))
            .read_timeout(Duration::from_secs(1))
            .build();
        let connector = Connector {
            client,
            limit: None,
        };
        let connector = connector.limited(&settings);
        let began = tokio::time::Instant::now();
        let error = connector
            .call(HttpRequest::get(url).unwrap())
            .await
            .unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }
}
