//! What the admin port answers.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the status page |
//! | `GET /status` | [`Status`](crate::admin::report::Status) as JSON |
//! | `GET /healthz` | 200 while the process works |
//! | `GET /readyz` | 200 where clients may go, else 503; `?role=master` only on the master |
//! | `GET /role` | the role's name; 200 on the master, else 503, for checks that look at the code only |
//! | `GET /metrics` | Prometheus' text format, or OpenMetrics for those who accept it |
//! | `GET /history` | the last [`Event`]s as JSON |
//! | `GET /events` | the same as server-sent events, and from then on each new one |
//! | `GET /samples` | [`Samples`](crate::admin::report::Samples) as JSON; `?from=N` only the newest |
//! | `POST /…` | a [`Verb`]; who may is for [`Access`] to say |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::admin::access::Access;
use crate::admin::metrics::{self, Format, Metric};
use crate::admin::report::{Answer, Event};
use crate::admin::serve::Stage;
use crate::admin::{AdminSource, Verb};

/// The page, whole.
const PAGE: &str = include_str!("page.html");
/// Nothing but the page itself may run in it, and nobody may frame it.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const LOOKS: &str = "/ /status /healthz /readyz /role /metrics /history /events /samples";
/// Bodies are not read; a longer one is refused before it comes.
const BODY_BYTES_MAX: u64 = 4096;
/// Those who follow events at a time.
pub(super) const FOLLOWERS_MAX: usize = 32;
/// Control requests at a time.
const ACTIONS_MAX: usize = 4;
/// An exposition that is no older is given again: a storm of scrapes costs what fifty a second cost. What it
/// says of items and commands is measured less often than that.
const SCRAPE_FRESH: Duration = Duration::from_millis(20);
/// A follower hears at least a blank line that often, so that both ends notice when the other is gone.
const STREAM_BEAT: Duration = Duration::from_secs(5);

/// An answer in one piece, or events as they come.
pub(super) type AnswerBody = Either<Full<Bytes>, Pieces>;

/// Everything that is answered.
pub(super) struct Routes {
    source: Arc<dyn AdminSource>,
    access: Arc<Access>,
    followers: Arc<Semaphore>,
    actions: Semaphore,
    refused: AtomicU64,
    scraped: Mutex<Option<Scraped>>,
}

/// What was last answered to a scrape.
struct Scraped {
    at: Instant,
    format: Format,
    refused: u64,
    text: Bytes,
}

impl Routes {
    pub(super) fn new(source: Arc<dyn AdminSource>, access: Arc<Access>) -> Self {
        Self {
            source,
            access,
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            actions: Semaphore::new(ACTIONS_MAX),
            refused: AtomicU64::new(0),
            scraped: Mutex::default(),
        }
    }

    pub(super) async fn answer(
        &self,
        request: &Request<Incoming>,
        client: SocketAddr,
        stage: &Stage,
    ) -> Response<AnswerBody> {
        stage.set(Stage::ASKED);
        let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if announced.is_some_and(|length| length.parse().is_ok_and(|length: u64| length > BODY_BYTES_MAX)) {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "requests here have no body\n");
        }
        match *request.method() {
            Method::GET | Method::HEAD => self.look(request, stage),
            Method::POST => self.control(request, client, stage).await,
            _ => {
                let mut answer =
                    text(StatusCode::METHOD_NOT_ALLOWED, format!("GET {LOOKS}, POST {}\n", Verb::PATHS));
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                answer
            }
        }
    }

    fn look(&self, request: &Request<Incoming>, stage: &Stage) -> Response<AnswerBody> {
        let query = request.uri().query().unwrap_or_default();
        let asks = |pair: &str| query.split('&').any(|part| part == pair);
        let when = |good: bool| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match request.uri().path() {
            "/" => page(),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => {
                let status = self.source.status();
                let ready = status.node.ready && (!asks("role=master") || status.is_master());
                let word = if ready { "ready" } else { "not ready" };
                text(when(ready), format!("{word}: {}\n", status.node.role))
            }
            "/role" => {
                let status = self.source.status();
                text(when(status.is_master()), format!("{}\n", status.node.role))
            }
            "/status" => {
                let mut status = self.source.status();
                status.control = if self.access.needs_token() { "token" } else { "local" }.to_owned();
                json(StatusCode::OK, &status)
            }
            "/metrics" => self.metrics(request),
            "/history" => json(StatusCode::OK, &self.source.events().newer(0)),
            "/events" => self.follow(request, stage),
            "/samples" => {
                let from = query.split('&').find_map(|part| part.strip_prefix("from="));
                let from = from.and_then(|from| from.parse().ok()).unwrap_or(0);
                compact(&self.source.samples(from))
            }
            _ => text(StatusCode::NOT_FOUND, format!("there are GET {LOOKS}, POST {}\n", Verb::PATHS)),
        }
    }

    fn metrics(&self, request: &Request<Incoming>) -> Response<AnswerBody> {
        let accepted = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let format = Format::accepted(accepted.unwrap_or_default());
        let refused = self.refused.load(Ordering::Relaxed);
        let mut scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |last: &&Scraped| {
            (last.format, last.refused) == (format, refused) && last.at.elapsed() < SCRAPE_FRESH
        };
        let text = match scraped.as_ref().filter(is_fresh) {
            Some(last) => last.text.clone(),
            None => {
                let text = Bytes::from(self.exposition(format, refused));
                *scraped = Some(Scraped { at: Instant::now(), format, refused, text: text.clone() });
                text
            }
        };
        respond(StatusCode::OK, format.content_type(), text)
    }

    fn exposition(&self, format: Format, refused: u64) -> String {
        let mut all = metrics::of_status(&self.source.status());
        all.push(Metric::counter(
            "tandem_admin_refused_total",
            "Control requests refused for want of the token, or of being on this machine.",
            refused,
        ));
        all.extend(self.source.metrics());
        metrics::exposition(&all, format)
    }

    async fn control(
        &self,
        request: &Request<Incoming>,
        client: SocketAddr,
        stage: &Stage,
    ) -> Response<AnswerBody> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let Some(verb) = Verb::parse(path, query) else {
            return text(StatusCode::NOT_FOUND, format!("there are POST {}\n", Verb::PATHS));
        };
        if let Some((code, why)) = self.access.refusal(request.headers(), client.ip()) {
            // A guesser must not fill the log.
            if self.refused.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
                tracing::warn!(%client, path, "admin port: refused, because {why}");
            }
            return done(code, Err(why));
        }
        let Ok(_place) = self.actions.try_acquire() else {
            let why = "other control requests are under way: look at /status, then ask again";
            return done(StatusCode::SERVICE_UNAVAILABLE, Err(why.to_owned()));
        };
        stage.set(Stage::ACTING);
        let result = self.source.act(verb).await;
        match &result {
            Ok(what) => tracing::info!(%client, path, "admin port: {what}"),
            Err(why) => tracing::info!(%client, path, "admin port: refused, because {why}"),
        }
        done(if result.is_ok() { StatusCode::OK } else { StatusCode::CONFLICT }, result)
    }

    fn follow(&self, request: &Request<Incoming>, stage: &Stage) -> Response<AnswerBody> {
        let Ok(place) = Arc::clone(&self.followers).try_acquire_owned() else {
            let mut answer =
                text(StatusCode::SERVICE_UNAVAILABLE, "too many follow the events: ask for /history\n");
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return answer;
        };
        let known = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
        let after = known.and_then(|id| id.parse().ok()).unwrap_or(0);
        let (sender, pieces) = mpsc::channel(4);
        tokio::spawn(tell(Arc::clone(&self.source), after, sender, place));
        stage.set(Stage::FOLLOWS);
        let mut answer = Response::new(Either::Right(Pieces(pieces)));
        head(&mut answer, "text/event-stream");
        answer
    }
}

/// Sends what is kept, then what comes, until nobody listens.
async fn tell(
    source: Arc<dyn AdminSource>,
    mut after: u64,
    pieces: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
) {
    let mut newest = source.events().subscribe();
    // A page that lost its stream comes back after a second.
    let mut text = "retry: 1000\n\n".to_owned();
    loop {
        newest.borrow_and_update();
        for event in source.events().newer(after) {
            after = event.id;
            text += &as_event(&event);
        }
        if pieces.send(std::mem::take(&mut text).into()).await.is_err() {
            return;
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(STREAM_BEAT) => ":\n\n".clone_into(&mut text),
            () = pieces.closed() => return,
        }
    }
}

fn as_event(event: &Event) -> String {
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind)
}

/// A body that comes piece by piece.
#[derive(Debug)]
pub(super) struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn page() -> Response<AnswerBody> {
    let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    for (name, value) in
        [(CONTENT_SECURITY_POLICY, PAGE_POLICY), (HeaderName::from_static("referrer-policy"), "no-referrer")]
    {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn done(code: StatusCode, result: Result<String, String>) -> Response<AnswerBody> {
    let done = result.is_ok();
    json(code, &Answer { done, message: result.unwrap_or_else(|why| why) })
}

fn json(code: StatusCode, value: &impl serde::Serialize) -> Response<AnswerBody> {
    match serde_json::to_string_pretty(value) {
        Ok(body) => respond(code, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// JSON that no person reads.
fn compact(value: &impl serde::Serialize) -> Response<AnswerBody> {
    match serde_json::to_string(value) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<AnswerBody> {
    respond(code, "text/plain; charset=utf-8", body)
}

fn respond(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<AnswerBody> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = code;
    head(&mut response, kind);
    response
}

fn head(response: &mut Response<AnswerBody>, kind: &'static str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
