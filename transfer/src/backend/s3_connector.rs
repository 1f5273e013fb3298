//! The HTTP client of the other backends, as a connector for the AWS SDK: buckets are reached
//! through the same proxies, with the same roots and client certificate, over the same connections.

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
struct Connector(reqwest::Client);

/// A connector that uses the client without its credentials, which are not for buckets. It does not
/// follow redirects: a signature is for one host.
pub(crate) fn shared(client: &HttpClient) -> SharedHttpClient {
    SharedHttpClient::new(Connector(client.inner().clone()))
}

impl SdkClient for Connector {
    fn http_connector(
        &self,
        // The client has its own connect timeout, and other timeouts are up to the engine.
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move { send(client, request).await })
    }
}

async fn send(
    client: reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, ConnectorError> {
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
