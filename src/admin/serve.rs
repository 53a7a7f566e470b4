//! The server of the admin port.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | [`Status`](crate::admin::report::Status) as JSON |
//! | `GET /healthz` | 200 while the process works |
//! | `GET /readyz` | 200 where clients may go, else 503; `?role=master` only on the master |
//! | `GET /role` | the role's name; 200 on the master, else 503, for checks that look at the code only |
//! | `GET /metrics` | Prometheus' text format |
//! | `POST /switchover` | hands the master role over |
//! | `POST /promote` | makes this node master; `?force=true` even if the peer may be alive |
//!
//! Control is for operators on the machine: requests to change something are refused unless they
//! come from a loopback address and from no web page.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::admin::AdminSource;
use crate::admin::metrics;
use crate::admin::report::Answer;

/// Requests served at a time; further ones wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// A request is a few lines; hyper accepts no less than this.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// To send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(2);
/// For all of a connection, a slow switchover included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// After a failed accept (no file descriptor left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped. Runs where it is spawned: the control thread.
pub async fn serve(listener: TcpListener, source: Arc<dyn AdminSource>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                let source = Arc::clone(&source);
                connections.spawn(async move {
                    let _place = place;
                    // Whoever is slow or speaks no HTTP is simply cut off.
                    let _ = tokio::time::timeout(CONNECTION_LIMIT, connection(stream, client, source)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin port: cannot accept; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, client: SocketAddr, source: Arc<dyn AdminSource>) {
    let service = service_fn(|request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, client, source.as_ref()).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%client, %error, "admin port: connection");
    }
}

async fn answer(
    request: &Request<Incoming>,
    client: SocketAddr,
    source: &dyn AdminSource,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let asks =
        |pair: &str| request.uri().query().is_some_and(|query| query.split('&').any(|part| part == pair));
    match (request.method(), path) {
        (&Method::GET | &Method::HEAD, _) => look(path, asks("role=master"), source),
        (&Method::POST, "/switchover" | "/promote") => {
            if let Some(refusal) = refusal(request, client) {
                return control(StatusCode::FORBIDDEN, Err(refusal));
            }
            let result = match path {
                "/switchover" => source.switchover().await,
                _ => source.promote(asks("force=true")).await,
            };
            tracing::info!(%client, path, ?result, "admin port: control request");
            let code = if result.is_ok() { StatusCode::OK } else { StatusCode::CONFLICT };
            control(code, result)
        }
        _ => text(
            StatusCode::METHOD_NOT_ALLOWED,
            "GET /status /healthz /readyz /role /metrics, POST /switchover /promote\n",
        ),
    }
}

/// Why a request may not change anything.
fn refusal(request: &Request<Incoming>, client: SocketAddr) -> Option<String> {
    if !client.ip().to_canonical().is_loopback() {
        return Some(
            "control requests are taken from this machine only: run tandemctl on the node itself".to_owned(),
        );
    }
    let from_page = request.headers().contains_key(ORIGIN);
    from_page.then(|| "control requests are not taken from web pages: use tandemctl".to_owned())
}

fn look(path: &str, master_only: bool, source: &dyn AdminSource) -> Response<Full<Bytes>> {
    let when = |good: bool| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let status = source.status();
            let ready = status.node.ready && (!master_only || status.is_master());
            let word = if ready { "ready" } else { "not ready" };
            text(when(ready), format!("{word}: {}\n", status.node.role))
        }
        "/role" => {
            let status = source.status();
            text(when(status.is_master()), format!("{}\n", status.node.role))
        }
        "/status" => json(StatusCode::OK, &source.status()),
        "/metrics" => {
            let mut all = metrics::of_status(&source.status());
            all.extend(source.metrics());
            respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics::exposition(&all))
        }
        _ => text(StatusCode::NOT_FOUND, "there are /status /healthz /readyz /role /metrics\n"),
    }
}

fn control(code: StatusCode, result: Result<(), String>) -> Response<Full<Bytes>> {
    let done = result.is_ok();
    json(code, &Answer { done, message: result.err().unwrap_or_else(|| "done".to_owned()) })
}

fn json(code: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(value) {
        Ok(body) => respond(code, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(code, "text/plain; charset=utf-8", body)
}

fn respond(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
