//! TLS for clients: certificates, who must show one, and the handshake.
//!
//! Files are read when sockets are bound, so that a missing or wrong one stops the start with its name.
//! A reload reads all of them again and swaps everything at once; if anything is wrong the certificates
//! of before stay in force. Connections keep what they began with.
//!
//! A handshake is bounded in time and in bytes, so that strangers hold little for long.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CipherSuite, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, SupportedCipherSuite,
};
use tokio_rustls::server::TlsStream;

use super::limits;
use crate::stats::TlsCounts;

/// What the operator asked of TLS (`-Z`, `-o ssl_…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate and those between it and the root, PEM (`ssl_chain_cert`).
    pub chain: PathBuf,
    /// Its private key (`ssl_key`).
    pub key: PathBuf,
    /// The key is DER, not PEM (`ssl_keyformat`).
    pub key_is_der: bool,
    /// Who may sign clients' certificates, PEM (`ssl_ca_cert`).
    pub authorities: Option<PathBuf>,
    /// Whether clients show a certificate (`ssl_verify_mode`).
    pub verify: Verify,
    /// Only TLS 1.3 (`ssl_min_version=3`).
    pub only_13: bool,
    /// TLS 1.2 suites by OpenSSL's names; all if empty (`ssl_ciphers`).
    pub ciphers: Vec<String>,
    /// Clients may resume sessions (`ssl_session_cache`).
    pub session_cache: bool,
    /// Bytes of a connection's write buffer (`ssl_wbuf_size`).
    pub write_buffer: usize,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// They are not asked.
    Never,
    /// They are asked; a wrong one is refused, none is accepted.
    Request,
    /// They must.
    Require,
}

/// What a listener wants (`notls:`, `btls:`, `mtls:`, or what `-Z` says).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// TLS as configured if there is `-Z`, else none.
    #[default]
    Default,
    /// No TLS.
    Plain,
    /// TLS without clients' certificates.
    Basic,
    /// TLS with clients' certificates.
    Mutual,
}

/// OpenSSL's names of the TLS 1.2 suites there are.
pub const CIPHERS: [(&str, CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Certificates in force.
pub(super) struct Tls {
    config: TlsConfig,
    /// Some listener wants clients' certificates whatever `verify` says.
    mutual: bool,
    current: RwLock<Acceptors>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("config", &self.config).finish_non_exhaustive()
    }
}

/// One way of shaking hands per kind of listener.
struct Acceptors {
    normal: Arc<ServerConfig>,
    basic: Arc<ServerConfig>,
    mutual: Option<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads every file, or says what is wrong with which.
    pub(super) fn load(config: &TlsConfig, mutual: bool) -> Result<Self, String> {
        let current = RwLock::new(acceptors(config, mutual)?);
        Ok(Self { config: config.clone(), mutual, current })
    }

    /// Reads every file again. On an error what was in force stays so.
    pub(super) fn reload(&self) -> Result<(), String> {
        let fresh = acceptors(&self.config, self.mutual)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn acceptor(&self, security: Security) -> Option<TlsAcceptor> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let config = match security {
            Security::Plain => return None,
            Security::Default => &current.normal,
            Security::Basic => &current.basic,
            Security::Mutual => current.mutual.as_ref()?,
        };
        Some(Arc::clone(config).into())
    }

    /// Shakes hands with a client; `None` if it cannot or takes too long.
    pub(super) async fn accept(
        &self,
        security: Security,
        stream: TcpStream,
        counts: &TlsCounts,
    ) -> Option<Secured> {
        let acceptor = self.acceptor(security)?;
        let stream = Metered { stream, left: limits::HANDSHAKE_BYTES };
        let buffer = Some(self.config.write_buffer);
        let shaken = acceptor.accept_with(stream, |session| session.set_buffer_limit(buffer));
        match tokio::time::timeout(limits::HANDSHAKE, shaken).await {
            Ok(Ok(mut stream)) => {
                let (metered, session) = stream.get_mut();
                metered.left = usize::MAX;
                if session.handshake_kind() != Some(HandshakeKind::Resumed) {
                    counts.new_sessions.fetch_add(1, Ordering::Relaxed);
                }
                Some(Secured(Box::new(stream)))
            }
            failed => {
                counts.handshake_errors.fetch_add(1, Ordering::Relaxed);
                if let Ok(Err(error)) = failed {
                    tracing::debug!(%error, "a TLS handshake failed");
                }
                None
            }
        }
    }
}

fn acceptors(config: &TlsConfig, mutual: bool) -> Result<Acceptors, String> {
    let files = Files::read(config)?;
    Ok(Acceptors {
        normal: files.server(config, config.verify)?,
        basic: files.server(config, Verify::Never)?,
        mutual: mutual.then(|| files.server(config, Verify::Require)).transpose()?,
    })
}

/// What the files hold.
struct Files {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Option<Arc<RootCertStore>>,
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, String> {
        let chain = certificates("ssl_chain_cert", &config.chain)?;
        let bytes = read("ssl_key", &config.key)?;
        let key = if config.key_is_der {
            PrivateKeyDer::try_from(bytes).map_err(ToString::to_string)
        } else {
            PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| error.to_string())
        };
        let key = key.map_err(|error| {
            let form = if config.key_is_der { "DER" } else { "PEM" };
            problem("ssl_key", &config.key, &format!("no private key in {form}: {error}"))
        })?;
        let authorities = config.authorities.as_deref().map(authorities).transpose()?;
        Ok(Self { chain, key, authorities })
    }

    fn server(&self, config: &TlsConfig, verify: Verify) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(provider(&config.ciphers)?);
        let versions: &[_] = if config.only_13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| format!("-o ssl_ciphers, ssl_min_version: {error}; allow more of them"))?;
        let builder = match (verify, &self.authorities) {
            (Verify::Never, _) => builder.with_no_client_auth(),
            (_, None) => {
                return Err(
                    "clients' certificates are asked for, but nobody may sign them: add -o ssl_ca_cert=FILE"
                        .to_owned(),
                );
            }
            (_, Some(roots)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider);
                let verifier =
                    if verify == Verify::Request { verifier.allow_unauthenticated() } else { verifier };
                let verifier = verifier.build().map_err(|error| format!("-o ssl_ca_cert: {error}"))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server =
            builder.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(|error| {
                format!(
                    "-o ssl_chain_cert={}, ssl_key={}: {error}; they must belong together",
                    config.chain.display(),
                    config.key.display()
                )
            })?;
        if config.session_cache {
            server.session_storage = ServerSessionMemoryCache::new(limits::TLS_SESSIONS);
        } else {
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        }
        Ok(Arc::new(server))
    }
}

/// ring, with all suites of TLS 1.3 and those of TLS 1.2 that were asked for.
fn provider(ciphers: &[String]) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    if ciphers.is_empty() {
        return Ok(provider);
    }
    let mut wanted = Vec::new();
    for name in ciphers {
        match CIPHERS.iter().find(|(known, _)| known == name) {
            Some((_, suite)) => wanted.push(*suite),
            None => {
                let known: Vec<_> = CIPHERS.iter().map(|(name, _)| *name).collect();
                return Err(format!("-o ssl_ciphers: `{name}` is not here; there are {}", known.join(":")));
            }
        }
    }
    let is_13 = |suite: &SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
    provider.cipher_suites.retain(|suite| is_13(suite) || wanted.contains(&suite.suite()));
    Ok(provider)
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("ssl_ca_cert", path)? {
        store.add(certificate).map_err(|error| problem("ssl_ca_cert", path, &error.to_string()))?;
    }
    Ok(Arc::new(store))
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(option, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(problem(option, path, "no certificate in PEM")),
        Err(error) => Err(problem(option, path, &format!("no certificate in PEM: {error}"))),
    }
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        problem(option, path, &format!("{error}; name a file that the server's user may read"))
    })
}

fn problem(option: &str, path: &Path, what: &str) -> String {
    format!("-o {option}={}: {what}", path.display())
}

/// A client's socket under TLS. It stands in a box, because most sockets are not.
pub(super) struct Secured(Box<TlsStream<Metered>>);

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secured")
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}

/// A socket from which only so many bytes are read: a handshake needs few.
pub(super) struct Metered {
    stream: TcpStream,
    left: usize,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the handshake is too long")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.left != usize::MAX {
            self.left = self.left.saturating_sub(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
