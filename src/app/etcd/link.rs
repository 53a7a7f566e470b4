//! One connection to a member of an etcd: HTTP/1.1, under TLS if the etcd speaks it, kept between requests.

use std::error::Error;
use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, Error as TlsError};

use crate::dial::{TlsFiles, named};

/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The client's side of TLS: what its files held, and which they were.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    files: TlsFiles,
}

impl Tls {
    pub(super) fn read(files: TlsFiles) -> Result<Self, String> {
        Ok(Self { config: files.read()?, files })
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is of no use: another one may be.
    Broken(String),
    /// The member answered with this.
    Refused(StatusCode, String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(why) => f.write_str(why),
            Self::Refused(status, why) => write!(f, "{status}: {why}"),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    /// HOST:PORT.
    member: String,
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    files: Option<TlsFiles>,
}

/// Moves the connection's bytes; ends with it.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// To HOST:PORT.
    pub(super) async fn connect(member: &str, tls: Option<&Tls>) -> Result<Self, Failure> {
        let broken = |why: String| Failure::Broken(why);
        let stream = TcpStream::connect(member).await.map_err(|why| broken(why.to_string()))?;
        let _best_effort = stream.set_nodelay(true);
        let Some(tls) = tls else { return Self::over(member, stream, None).await };
        let host = member.rsplit_once(':').map_or(member, |(host, _)| host);
        let name = named(host.trim_start_matches('[').trim_end_matches(']').to_owned()).map_err(broken)?;
        let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream).await;
        let stream = stream.map_err(|why| match why.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => broken(
                "closed the connection instead of speaking TLS: if it speaks none, name it as etcd://…"
                    .into(),
            ),
            _ => broken(explain(&why, Some(&tls.files))),
        })?;
        Self::over(member, stream, Some(tls.files.clone())).await
    }

    async fn over(
        member: &str,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        files: Option<TlsFiles>,
    ) -> Result<Self, Failure> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|why| Failure::Broken(why.to_string()))?;
        let driver = Driver(tokio::spawn(async move {
            // Whoever waits for an answer learns of it.
            let _ended = connection.await;
        }));
        Ok(Self { member: member.to_owned(), sender, driver, files })
    }

    /// HOST:PORT.
    pub(super) fn member(&self) -> &str {
        &self.member
    }

    /// Whether it leads there, as far as is known.
    pub(super) fn leads_to(&self, member: &str) -> bool {
        self.member == member && !self.sender.is_closed() && !self.driver.0.is_finished()
    }

    /// One request of the JSON gateway.
    pub(super) async fn post(
        &mut self,
        what: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<Value, Failure> {
        let broken = |why: &(dyn Error + 'static)| Failure::Broken(explain(why, self.files.as_ref()));
        let mut request = hyper::Request::post(format!("/v3/{what}"))
            .header("host", &self.member)
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(Bytes::from(body.to_string()))).map_err(|why| broken(&why))?;
        self.sender.ready().await.map_err(|why| broken(&why))?;
        let answer = self.sender.send_request(request).await.map_err(|why| broken(&why))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|why| Failure::Broken(why.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(Failure::Refused(status, said(&body)));
        }
        serde_json::from_slice(&body)
            .map_err(|why| Failure::Broken(format!("an answer that is no JSON: {why}")))
    }
}

/// The words of an answer that is a refusal.
fn said(body: &[u8]) -> String {
    let words =
        serde_json::from_slice(body).ok().and_then(|json: Value| Some(json["error"].as_str()?.to_owned()));
    let words = words.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    match &*words {
        "etcdserver: user name is empty" => {
            format!(
                "{words}: it wants to know who is there, so name a file with user:password with --arbiter-auth-file (and etcds://)"
            )
        }
        "etcdserver: authentication is not enabled" => format!("{words}: leave --arbiter-auth-file away"),
        "etcdserver: authentication failed, invalid user ID or password" => {
            format!("{words}: those of --arbiter-auth-file")
        }
        "etcdserver: permission denied" => {
            format!(
                "{words}: it takes a user (--arbiter-auth-file) whose role reads and writes the key tandem/NAME/serves-alone"
            )
        }
        _ if words.starts_with("CommonName of client") => {
            format!(
                "{words}: with --client-cert-auth, --arbiter-tls-cert must be a certificate without a common name"
            )
        }
        _ if words.contains("HTTP request to an HTTPS server") => {
            "speaks TLS: name it as etcds://…, and with --arbiter-tls-ca who signs its certificate".to_owned()
        }
        _ => words,
    }
}

/// What an operator can do about a connection that failed.
fn explain(why: &(dyn Error + 'static), files: Option<&TlsFiles>) -> String {
    let mut next = Some(why);
    while let Some(error) = next {
        // An io::Error hides what it was made of from those who ask for its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<TlsError>());
        let closed = error.downcast_ref().is_some_and(hyper::Error::is_incomplete_message);
        match (tls, files) {
            (None, None) if closed => {
                return "closed the connection: if it speaks TLS, name it as etcds://…".to_owned();
            }
            (Some(TlsError::InvalidMessage(_)), _) => {
                return "does not speak TLS: name it as etcd://…, or the port that does".to_owned();
            }
            (Some(problem), Some(files)) => return files.explain(problem),
            _ => {}
        }
        next = error.source();
    }
    match why.source() {
        Some(cause) => format!("{why}: {cause}"),
        None => why.to_string(),
    }
}
