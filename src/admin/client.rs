//! The client of the admin port: what `tandemctl` speaks.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::admin::Verb;
use crate::admin::report::{Answer, Event, Status};

/// An answer that is longer is none of ours.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// To connect and be answered; a switchover may take a while.
const LIMIT: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody answers there, or not with what an admin port would say.
    Unreachable(String),
    /// The node refuses, and says why.
    Refused(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Refused(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// The admin port of one node. Blocking: every call is one connection.
#[derive(Clone, Debug)]
pub struct Client {
    server: String,
    token: Option<String>,
}

impl Client {
    /// A client of the node whose admin port is at HOST:PORT.
    pub fn new(server: impl Into<String>) -> Self {
        Self { server: server.into(), token: None }
    }

    /// Control requests carry that token; see [`read_token`](crate::admin::access::read_token).
    #[must_use]
    pub fn with_token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// Where it asks.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What the node says of itself and its peer.
    pub fn status(&self) -> Result<Status, Error> {
        let (code, body) = self.call(Method::GET, "/status")?;
        if code != StatusCode::OK {
            return Err(self.strange(code, &body));
        }
        let status: Status = serde_json::from_slice(&body).map_err(|_| self.strange(code, &body))?;
        if status.format != Status::FORMAT {
            return Err(Error::Unreachable(format!(
                "{} reports in format {}, this tandemctl knows {}: use the tandemctl of the node's version",
                self.server,
                status.format,
                Status::FORMAT
            )));
        }
        Ok(status)
    }

    /// Any page, as text.
    pub fn page(&self, path: &str) -> Result<(u16, String), Error> {
        let (code, body) = self.call(Method::GET, path)?;
        Ok((code.as_u16(), String::from_utf8_lossy(&body).into_owned()))
    }

    /// What happened lately, oldest first.
    pub fn history(&self) -> Result<Vec<Event>, Error> {
        let (code, body) = self.call(Method::GET, "/history")?;
        serde_json::from_slice(&body).map_err(|_| self.strange(code, &body))
    }

    /// Asks for a planned handover and waits for it.
    pub fn switchover(&self) -> Result<(), Error> {
        self.act(&Verb::Switchover).map(drop)
    }

    /// Asks the node to become master and waits for it.
    pub fn promote(&self, force: bool) -> Result<(), Error> {
        self.act(&Verb::Promote { force }).map(drop)
    }

    /// Asks for that and waits for it; what happened, in a sentence.
    pub fn act(&self, verb: &Verb) -> Result<String, Error> {
        let (code, body) = self.call(Method::POST, &verb.path())?;
        if code == StatusCode::METHOD_NOT_ALLOWED || code == StatusCode::NOT_FOUND {
            return Err(Error::Refused(format!(
                "the node at {} does not know `{}`: it is of an older version",
                self.server,
                verb.path()
            )));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| self.strange(code, &body))?;
        match (answer.done, code, &self.token) {
            (true, ..) => Ok(answer.message),
            (false, StatusCode::UNAUTHORIZED, None) => Err(Error::Refused(format!(
                "the node at {} wants its token: say --token-file FILE, a copy of the file of its --admin-token-file",
                self.server
            ))),
            (false, StatusCode::UNAUTHORIZED, Some(_)) => {
                Err(Error::Refused(format!("{}: name a copy of that file with --token-file", answer.message)))
            }
            (false, ..) => Err(Error::Refused(answer.message)),
        }
    }

    fn strange(&self, code: StatusCode, body: &[u8]) -> Error {
        let words = body.escape_ascii().to_string();
        let words: String = words.chars().take(100).collect();
        Error::Unreachable(format!(
            "{} answers {code} {words}: is this the admin port of a tandemd (--admin), not its client port?",
            self.server
        ))
    }

    fn call(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), Error> {
        let unreachable = |error: &dyn fmt::Display| {
            Error::Unreachable(format!(
                "no admin port at {}: {error}; is tandemd running with --admin {}?",
                self.server, self.server
            ))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unreachable(&error))?;
        runtime.block_on(async {
            match tokio::time::timeout(LIMIT, self.exchange(method, path)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) if speaks_otherwise(&*error) => Err(Error::Unreachable(format!(
                    "what listens at {} is no admin port: name that of --admin (11213 unless it was changed), not the port for clients",
                    self.server
                ))),
                Ok(Err(error)) => Err(unreachable(&error)),
                Err(_) => Err(unreachable(&format!("no answer within {} s", LIMIT.as_secs()))),
            }
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.server).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
        let mut request = Request::builder().method(&method).uri(path).header("host", &self.server);
        if let Some(token) = self.token.as_ref().filter(|_| method == Method::POST) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Empty::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let code = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok((code, body))
        };
        tokio::select! {
            answer = exchange => answer,
            Err(error) = connection => Err(error.into()),
        }
    }
}

/// Whether somebody is there who knows no HTTP.
fn speaks_otherwise(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<hyper::Error>();
    error.is_some_and(|error| error.is_parse() || error.is_incomplete_message())
}
