//! How a client gets in: a connection to a memcached server, under TLS or with a password if it wants them.
//!
//! Files are read once, before anything is dialled. What stands in the way is an error that names the flag
//! which removes it: a server that wants TLS or a password says so in odd ways, if at all.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Error as TlsError, RootCertStore,
    StreamOwned,
};

/// What systems trust, where they have it.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// For each step of letting a connection in, where the caller's limit is for the socket alone.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// A longer answer to `version` is none.
const ANSWER_BYTES_MAX: usize = 1024;
/// A longer line is no user and password.
const TOKEN_BYTES_MAX: usize = 255;

/// What a server wants before it serves.
#[derive(Args, Clone, Debug, Default)]
pub struct Access {
    /// The server speaks TLS (its -Z).
    #[arg(long, help_heading = "Access")]
    pub tls: bool,
    /// Who signed its certificate, PEM; also says that it speaks TLS [default: whom this system trusts].
    #[arg(long, help_heading = "Access", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The name in its certificate [default: the host of its address].
    #[arg(long, help_heading = "Access", value_name = "NAME")]
    pub tls_name: Option<String>,
    /// A certificate to show to it, PEM; needs --tls-key.
    #[arg(long, help_heading = "Access", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of that certificate, PEM.
    #[arg(long, help_heading = "Access", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// File whose first line is user:password, for a server with -Y; the file of its -Y will do.
    #[arg(long, help_heading = "Access", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
}

impl Access {
    /// Reads the files that are named.
    pub fn read(&self) -> Result<Dialler, String> {
        let wanted = self.tls || self.tls_ca.is_some() || self.tls_name.is_some() || self.tls_cert.is_some();
        Ok(Dialler {
            tls: wanted.then(|| self.tls()).transpose()?,
            token: self.auth_file.as_deref().map(token).transpose()?,
        })
    }

    fn tls(&self) -> Result<Tls, String> {
        let files = TlsFiles {
            flags: "tls",
            authorities: self.tls_ca.clone(),
            identity: self.tls_cert.clone().zip(self.tls_key.clone()),
            or_name: ", or say --tls-name",
        };
        let name = self.tls_name.clone().map(named).transpose().map_err(|why| format!("--tls-name {why}"))?;
        Ok(Tls { config: files.read()?, name, files })
    }
}

/// What a client's side of TLS is made of.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// What the flags that name the files begin with: `--FLAGS-ca`, `--FLAGS-cert`, `--FLAGS-key`.
    pub flags: &'static str,
    /// Who may sign the server's certificate, PEM; without, whom this system trusts.
    pub authorities: Option<PathBuf>,
    /// A certificate to show, and its private key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What else can be done about a certificate for another name than the one that was dialled.
    pub or_name: &'static str,
}

impl TlsFiles {
    fn authorities(&self) -> &Path {
        self.authorities.as_deref().unwrap_or_else(|| Path::new(SYSTEM_AUTHORITIES))
    }

    /// Reads the files, or says what is wrong with which.
    pub fn read(&self) -> Result<Arc<ClientConfig>, String> {
        let wrong = |flag: &str, path: &Path, why: String| {
            format!("--{}-{flag} {}: {why}", self.flags, path.display())
        };
        let path = self.authorities();
        let mut roots = RootCertStore::empty();
        for authority in certificates(path).map_err(|why| wrong("ca", path, why))? {
            // A system's list may hold one that is too odd; a file of one's own may not.
            match roots.add(authority) {
                Err(why) if self.authorities.is_some() => return Err(wrong("ca", path, why.to_string())),
                _ => {}
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|why| format!("--{}: {why}", self.flags))?
            .with_root_certificates(roots);
        let config = match &self.identity {
            Some((certificate, key)) => {
                let chain = certificates(certificate).map_err(|why| wrong("cert", certificate, why))?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|why| wrong("key", key, format!("{why}; it holds a private key in PEM")))?;
                builder.with_client_auth_cert(chain, secret).map_err(|why| {
                    wrong("key", key, format!("{why}; does it belong to --{}-cert?", self.flags))
                })?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    /// What an operator can do about this: what the server does, and the remedy.
    pub fn explain(&self, why: &TlsError) -> String {
        let flags = self.flags;
        match why {
            TlsError::InvalidCertificate(problem) => match problem {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                    "shows a certificate that nobody in {} has signed: name who did with --{flags}-ca",
                    self.authorities().display()
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    format!("shows another name ({problem}): dial it by that{}", self.or_name)
                }
                other => format!("shows a certificate that cannot be trusted: {other}"),
            },
            // The first of them is what older libraries say to whoever shows none.
            TlsError::AlertReceived(AlertDescription::BadCertificate) if self.identity.is_none() => {
                format!("wants to see a certificate: --{flags}-cert FILE --{flags}-key FILE")
            }
            TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
                format!("wants to see a certificate: --{flags}-cert FILE --{flags}-key FILE")
            }
            TlsError::AlertReceived(alert) => {
                format!("refuses TLS ({alert:?}): does it trust --{flags}-cert?")
            }
            other => format!("and this side do not agree on TLS: {other}"),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        Ok(_) => Err("no certificate in PEM".to_owned()),
        Err(why) => Err(format!("{why}; name a file of certificates in PEM")),
    }
}

/// The name that a certificate has to carry.
pub fn named(name: String) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.clone()).map_err(|_| format!("{name}: neither a host name nor an address"))
}

/// The first user of a file of -Y, as memcached wants it on the wire.
fn token(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| format!("--auth-file {}: {why}", path.display());
    let text = std::fs::read(path).map_err(|why| wrong(&format!("{why}; let this user read it")))?;
    // As the server reads it: blanks belong to the password.
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return Err(wrong("its first line is not user:password"));
    };
    if line.len() > TOKEN_BYTES_MAX {
        return Err(wrong("its first line is longer than 255 bytes"));
    }
    Ok([&line[..colon], &line[colon + 1..]].join(&b' '))
}

struct Tls {
    config: Arc<ClientConfig>,
    /// The name that its certificate has to carry, if not the one it is dialled by.
    name: Option<ServerName<'static>>,
    files: TlsFiles,
}

/// Makes connections that a server accepts.
#[derive(Default)]
pub struct Dialler {
    tls: Option<Tls>,
    /// User and password.
    token: Option<Vec<u8>>,
}

impl std::fmt::Debug for Dialler {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialler").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Dialler {
    /// Nothing but a socket is needed.
    pub const fn is_plain(&self) -> bool {
        self.tls.is_none() && self.token.is_none()
    }

    /// A connection to HOST:PORT over which the server answers requests; `limit` bounds each step.
    pub fn enter(&self, address: &str, limit: Duration) -> Result<Stream, String> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let addresses = address.to_socket_addrs().map_err(|why| unreachable(address, &why))?;
        for socket in addresses {
            match TcpStream::connect_timeout(&socket, limit) {
                Ok(stream) => {
                    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                    return self.introduce(stream, host, limit).map_err(|why| format!("{address} {why}"));
                }
                Err(why) => last = why,
            }
        }
        Err(unreachable(address, &last))
    }

    /// The same to an address that is known; `limit` is for the socket, and whether the server answers is not
    /// looked at if there is nothing to be said to it.
    pub fn reach(&self, host: &str, socket: SocketAddr, limit: Duration) -> io::Result<Stream> {
        let stream = TcpStream::connect_timeout(&socket, limit)?;
        if self.is_plain() {
            stream.set_nodelay(true)?;
            return Ok(Stream::Plain(stream));
        }
        self.introduce(stream, host, INTRODUCTION).map_err(io::Error::other)
    }

    /// Agrees on TLS, says who is there, and sees that the server answers.
    fn introduce(&self, socket: TcpStream, host: &str, limit: Duration) -> Result<Stream, String> {
        let prepared = socket
            .set_nodelay(true)
            .and_then(|()| socket.set_read_timeout(Some(limit)))
            .and_then(|()| socket.set_write_timeout(Some(limit)));
        prepared.map_err(|why| why.to_string())?;
        let mut stream = match &self.tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = tls.name.clone().map_or_else(|| named(host.to_owned()), Ok)?;
                let session = ClientConnection::new(Arc::clone(&tls.config), name)
                    .map_err(|why| format!("cannot be asked for TLS: {why}"))?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        let answer = self.ask(&mut stream, b"version\r\n")?;
        if answer.starts_with(b"VERSION ") {
            // Whoever is let in anyway is not told a password: it would be stored as an item.
            return Ok(stream);
        }
        if !answer.starts_with(b"CLIENT_ERROR unauthenticated") {
            return Err(strange(&answer));
        }
        let Some(token) = &self.token else {
            return Err("wants to know who is there: --auth-file FILE names a file with user:password".into());
        };
        let mut request = format!("set auth 0 0 {}\r\n", token.len()).into_bytes();
        request.extend_from_slice(token);
        request.extend_from_slice(b"\r\n");
        match &*self.ask(&mut stream, &request)? {
            b"STORED" => Ok(stream),
            answer if answer.starts_with(b"CLIENT_ERROR authentication failure") => {
                Err("does not know the user, or not with the password, of --auth-file".to_owned())
            }
            answer => Err(strange(answer)),
        }
    }

    /// One line for one request.
    fn ask(&self, stream: &mut Stream, request: &[u8]) -> Result<Vec<u8>, String> {
        stream.write_all(request).and_then(|()| stream.flush()).map_err(|why| self.explain(&why))?;
        let (mut line, mut byte) = (Vec::new(), [0]);
        while line.len() < ANSWER_BYTES_MAX {
            match stream.read(&mut byte) {
                Ok(0) => return Err(self.explain(&io::ErrorKind::UnexpectedEof.into())),
                Ok(_) if byte[0] == b'\n' => return Ok(line.trim_ascii_end().to_vec()),
                Ok(_) => line.push(byte[0]),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(self.explain(&why)),
            }
            // An alert of TLS: nothing of memcached begins so, and it has no line end.
            if self.tls.is_none() && line.starts_with(&[0x15, 3]) {
                return Err(
                    "speaks TLS: add --tls, and --tls-ca FILE with whoever signed its certificate".into()
                );
            }
        }
        Err(strange(&line))
    }

    /// What an operator can do about a connection that ended before it could be used.
    fn explain(&self, why: &io::Error) -> String {
        let tls = why.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        match (tls, &self.tls) {
            (Some(TlsError::InvalidMessage(_)), _) => {
                "does not speak TLS on this port: leave --tls… away, or name the port that does".to_owned()
            }
            (Some(problem), Some(tls)) => tls.files.explain(problem),
            (None, _) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                "gives no answer: is it a memcached, and does it run?".to_owned()
            }
            (_, None) => format!(
                "closed the connection ({why}): if it speaks TLS, add --tls; with -S it speaks the binary protocol only, \
                 which has no way to list items: use a server with -Y"
            ),
            (None, Some(_)) => format!(
                "closed the connection ({why}): does it speak TLS on this port, and trust --tls-cert?"
            ),
        }
    }
}

fn unreachable(address: &str, why: &io::Error) -> String {
    format!("no server at {address}: {why}; name the port for clients, as in 192.0.2.11:11211")
}

/// What was said instead of an answer.
fn strange(answer: &[u8]) -> String {
    let words: String = answer.escape_ascii().to_string().chars().take(100).collect();
    format!("answers `{words}`: is it a memcached?")
}

/// A connection, as bytes.
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stream").field(self.socket()).finish()
    }
}

impl Stream {
    /// What lies below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// Whether more may have come than the socket tells: then read until it would block.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether something that was written has not reached the socket.
    pub fn is_behind(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.conn.wants_write())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            // Many end without the farewell that TLS has for it.
            Self::Tls(stream) => match stream.read(buffer) {
                Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
