//! What the nodes of a pair prove themselves with: pre-shared keys, certificates, or both. From files,
//! which can be read again while the pair runs; connections keep what they began with.
//!
//! With certificates both ends show one. Each must be signed by the authority both name, and be for the
//! name that the other end expects of its peer, whoever dialled: an authority may have signed for others.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, ServerConnection, SignatureScheme,
};

use crate::handshake::{Secret, Secrets};

/// A shorter key can be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// More in one file are no keys.
const SECRETS_MAX: usize = 2;

/// Where the keys of a pair are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFiles {
    /// Pre-shared keys, one on each line: the first is proven, either is taken (`--psk-file`).
    pub secrets: Option<PathBuf>,
    /// Certificates.
    pub tls: Option<TlsFiles>,
}

/// Where the certificates of a pair are; all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This node's certificate, and those between it and the authority's (`--replication-tls-cert`).
    pub certificate: PathBuf,
    /// Its private key (`--replication-tls-key`).
    pub key: PathBuf,
    /// Who signs the certificates of the pair (`--replication-tls-ca`).
    pub authority: PathBuf,
    /// The name in the peer's certificate (`--replication-tls-name`).
    pub name: String,
}

/// The keys themselves. Never printed.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Pre-shared keys.
    pub secrets: Secrets,
    /// Certificates: with them everything is under TLS.
    pub tls: Option<Tls>,
}

impl Keys {
    /// For a connection to somebody whose certificate carries the name it is dialled by.
    pub(crate) fn for_host(&self, host: &str) -> Self {
        let mut keys = self.clone();
        if let (Some(tls), Ok(name)) = (&mut keys.tls, ServerName::try_from(host.to_string())) {
            tls.name = name;
        }
        keys
    }

    /// For whoever accepts more than one node: any certificate of the authority will do.
    pub(crate) fn for_anybody(&self) -> Self {
        let mut keys = self.clone();
        if let Some(tls) = &mut keys.tls {
            tls.server = Arc::clone(&tls.server_of_anybody);
        }
        keys
    }

    /// Reads all of them, or says what is wrong with which file.
    pub fn read(files: &KeyFiles) -> Result<Self, String> {
        let secrets = files.secrets.as_deref().map(read_secrets).transpose()?.unwrap_or_default();
        let tls = files.tls.as_ref().map(Tls::read).transpose()?;
        Ok(Self { secrets, tls })
    }
}

impl From<Secret> for Keys {
    fn from(secret: Secret) -> Self {
        Self { secrets: secret.into(), tls: None }
    }
}

fn read_secrets(path: &Path) -> Result<Secrets, String> {
    let text = std::fs::read(path)
        .map_err(|why| format!("--psk-file {}: {why}; let this user read it", path.display()))?;
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.trim_ascii());
    let keys: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    if keys.is_empty() || keys.len() > SECRETS_MAX {
        return Err(format!(
            "--psk-file {}: {} keys; write one on a line, or while you replace it two: the first is used, both are taken",
            path.display(),
            keys.len()
        ));
    }
    if let Some(short) = keys.iter().find(|key| key.len() < SECRET_BYTES_MIN) {
        return Err(format!(
            "--psk-file {}: a key of {} bytes can be guessed; make one with `tandemctl genkey`",
            path.display(),
            short.len()
        ));
    }
    Ok(Secrets::new(keys.into_iter().map(|key| Secret::new(key.to_vec())).collect()))
}

/// Both ends of TLS between the nodes.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// The same, but for the name in the certificate of who dials.
    server_of_anybody: Arc<ServerConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    fn read(files: &TlsFiles) -> Result<Self, String> {
        let wrong = |flag: &str, path: &Path, what: String| {
            format!("--replication-tls-{flag} {}: {what}", path.display())
        };
        let chain =
            certificates(&files.certificate).map_err(|what| wrong("cert", &files.certificate, what))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|why| {
            wrong("key", &files.key, format!("no private key in PEM that can be read: {why}"))
        })?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.authority).map_err(|what| wrong("ca", &files.authority, what))? {
            roots.add(authority).map_err(|why| wrong("ca", &files.authority, why.to_string()))?;
        }
        let roots = Arc::new(roots);
        let name = ServerName::try_from(files.name.clone()).map_err(|_| {
            format!("--replication-tls-name {}: neither a host name nor an address", files.name)
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unfit = |why: rustls::Error| {
            wrong("cert", &files.certificate, format!("{why}; does --replication-tls-key belong to it?"))
        };
        let versions = |why: rustls::Error| format!("TLS 1.3: {why}");
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(versions)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unfit)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|why| wrong("ca", &files.authority, why.to_string()))?;
        let named = Arc::new(Named { authority: Arc::clone(&verifier), name: name.clone() });
        let [server, server_of_anybody] = [named, verifier].map(|verifier| {
            let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&TLS13])
                .map_err(versions)?
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(unfit)?;
            // Every connection shows its certificate: one that was revoked by a new authority stays out.
            server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            Ok::<_, String>(Arc::new(server))
        });
        Ok(Self { client: Arc::new(client), server: server?, server_of_anybody: server_of_anybody?, name })
    }

    /// This node's end of a connection it dialled, or accepted.
    pub(crate) fn session(&self, dialled: bool) -> Result<rustls::Connection, rustls::Error> {
        Ok(match dialled {
            true => ClientConnection::new(Arc::clone(&self.client), self.name.clone())?.into(),
            false => ServerConnection::new(Arc::clone(&self.server))?.into(),
        })
    }
}

/// Lets in who shows a certificate of the authority for one name.
#[derive(Debug)]
struct Named {
    authority: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.authority.verify_client_cert(shown, between, now)?;
        verify_server_name(&ParsedCertificate::try_from(shown)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.supported_verify_schemes()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err("no certificate in PEM".to_string()),
        Ok(certificates) => Ok(certificates),
        Err(why) => Err(format!("no certificates in PEM that can be read: {why}")),
    }
}

/// The keys in force: new connections take what is there.
#[derive(Clone, Debug, Default)]
pub struct SharedKeys(Arc<RwLock<Arc<Keys>>>);

impl SharedKeys {
    /// With these.
    pub fn new(keys: Keys) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    /// What is in force now.
    pub fn now(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in force.
    pub fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_keys_is_read_as_people_write_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("psk");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("it can be written");
            read_secrets(&path)
        };
        for text in ["0123456789abcdef", "0123456789abcdef\n", "\n 0123456789abcdef \r\n\nfedcba9876543210\n"]
        {
            assert!(!read(text).expect(text).is_empty());
        }
        for (text, named) in [("", "0 keys"), ("short\n", "genkey"), ("0123456789abcdef\nshort", "genkey")] {
            let error = read(text).expect_err(text);
            assert!(error.contains("psk") && error.contains(named), "{error}");
        }
        let error = read(&"0123456789abcdef\n".repeat(3)).expect_err("three");
        assert!(error.contains("3 keys"), "{error}");
        assert!(!format!("{:?}", read("0123456789abcdef")).contains("0123"), "it is never printed");
    }
}
