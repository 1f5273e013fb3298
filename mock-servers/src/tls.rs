//! TLS of the servers: a test authority, and valid and invalid certificates made at run time.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

/// The names of the servers.
const LOCAL: [&str; 2] = ["127.0.0.1", "localhost"];

/// A certificate authority that is not trusted by default.
pub struct TestCa {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for TestCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestCa")
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCa {
    /// A new authority with a new key.
    pub fn new() -> Self {
        let mut params = named("mock authority", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = new_key();
        let certificate = params
            .self_signed(&key)
            .expect("these parameters make a certificate");
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate in PEM, for the roots of a client.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server at `127.0.0.1` or `localhost`.
    pub fn server(&self) -> Identity {
        self.server_for(&LOCAL)
    }

    /// A certificate for a server with these names or addresses, and no other.
    pub fn server_for(&self, names: &[&str]) -> Identity {
        self.sign(
            named("mock server", names),
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    /// An expired certificate for a server at `127.0.0.1` or `localhost`.
    pub fn expired(&self) -> Identity {
        let mut params = named("mock server", &LOCAL);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Identity {
        self.sign(named(name, &[]), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Identity {
        params.extended_key_usages = vec![usage];
        let key = new_key();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("these parameters make a certificate");
        Identity::new(&certificate, &key)
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the crypto library makes keys of its default kind")
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names are ASCII");
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: Vec<u8>,
    key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key: key.serialize_der(),
            key_pem: key.serialize_pem(),
        }
    }

    /// A certificate for `127.0.0.1` and `localhost` that no authority has signed.
    pub fn self_signed() -> Self {
        let key = new_key();
        let certificate = named("mock server", &LOCAL)
            .self_signed(&key)
            .expect("these parameters make a certificate");
        Self::new(&certificate, &key)
    }

    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key in PEM, as PKCS #8.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

/// The TLS settings of a server. By default it offers HTTP/2 and HTTP/1.1.
#[derive(Debug, Clone)]
pub struct Tls(pub(crate) Arc<ServerConfig>);

impl Tls {
    /// With this certificate.
    pub fn new(identity: &Identity) -> Self {
        Self::build(identity, None)
    }

    /// With this certificate, only for clients with a certificate of this authority.
    pub fn with_client_certificates(identity: &Identity, authority: &TestCa) -> Self {
        Self::build(identity, Some(authority))
    }

    fn build(identity: &Identity, clients: Option<&TestCa>) -> Self {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(authority.der.clone())
                    .expect("the authority's certificate is one");
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .expect("there is a root to verify by");
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
        let mut config = builder
            .with_single_cert(vec![identity.certificate.clone()], key)
            .expect("the key belongs to the certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    /// Offers HTTP/1.1 only.
    #[must_use]
    pub fn http1_only(self) -> Self {
        let mut config = Arc::unwrap_or_clone(self.0);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }
}
