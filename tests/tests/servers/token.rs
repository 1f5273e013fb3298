//! An issuer of tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{
    Certificate, CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize, SigningKey as _,
};
use serde_json::json;

/// The name of the registry at its issuer.
pub(crate) const SERVICE: &str = "a-registry";
pub(crate) const NAME: &str = "an-issuer";

/// Signs tokens for registries that have its certificate ("Docker Registry v2 Bearer token
/// specification").
pub(crate) struct Issuer {
    key: KeyPair,
    certificate: Certificate,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        // RSA, whose signatures have the same form in a token as in a certificate.
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let parameters = CertificateParams::new(Vec::new()).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { key, certificate }
    }

    /// The certificate as PEM.
    pub(crate) fn certificate(&self) -> String {
        self.certificate.pem()
    }

    /// A token that allows these actions on these repositories for a number of seconds; negative: expired.
    pub(crate) fn token(&self, repositories: &[String], actions: &[&str], seconds: i64) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = i64::try_from(since.as_secs()).unwrap();
        let access: Vec<_> = repositories
            .iter()
            .map(|name| json!({ "type": "repository", "name": name, "actions": actions }))
            .collect();
        let header = json!({
            "typ": "JWT",
            "alg": "RS256",
            "x5c": [STANDARD.encode(self.certificate.der())],
        });
        let claims = json!({
            "iss": NAME,
            "sub": "somebody",
            "aud": SERVICE,
            "iat": now - 3600,
            "nbf": now - 3600,
            "exp": now + seconds,
            "jti": "1",
            "access": access,
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
