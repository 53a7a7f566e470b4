//! The server of the admin port: connections. What is answered stands in `routes`.
//!
//! The promise: whoever is slow, silent or many costs a bounded number of small connections and keeps
//! nobody else out. When all places are taken, the connection that has waited longest without asking
//! anything makes room.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::admin::AdminSource;
use crate::admin::access::Access;
use crate::admin::routes::Routes;

/// Connections at a time, those that follow `/events` included.
pub(super) const CONNECTIONS_MAX: usize = 128;
/// A request is a few lines; hyper accepts no less than this.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// To send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(2);
/// For all of a connection, a slow switchover included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// For one that follows `/events`; a page connects again by itself.
const STREAM_LIMIT: Duration = Duration::from_secs(600);
/// After a failed accept (no file descriptor left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How far a connection is.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    /// Nothing was asked yet.
    const SILENT: u8 = 0;
    /// The answer is being read.
    pub(super) const ASKED: u8 = 1;
    /// Something is being done.
    pub(super) const ACTING: u8 = 2;
    /// It follows events.
    pub(super) const FOLLOWS: u8 = 3;

    pub(super) fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }

    fn is(&self, stage: u8) -> bool {
        self.0.load(Ordering::Relaxed) == stage
    }
}

/// Everybody who is connected, oldest first.
#[derive(Default)]
struct Places(VecDeque<(Arc<Stage>, AbortHandle)>);

impl Places {
    /// Whether there is room for one more, be it by sending somebody away.
    fn make_room(&mut self) -> bool {
        if self.0.len() < CONNECTIONS_MAX {
            return true;
        }
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.len() < CONNECTIONS_MAX {
            return true;
        }
        let oldest = |stage| self.0.iter().position(|(of, _)| of.is(stage));
        let Some(victim) = oldest(Stage::SILENT).or_else(|| oldest(Stage::ASKED)) else { return false };
        if let Some((_, task)) = self.0.remove(victim) {
            task.abort();
        }
        true
    }
}

/// Serves until it is dropped, on the thread it is polled on.
pub async fn serve(listener: TcpListener, source: Arc<dyn AdminSource>, access: Arc<Access>) {
    let routes = Arc::new(Routes::new(source, access));
    let mut places = Places::default();
    // Ends the connections when it is dropped.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) if places.make_room() => {
                let stage = Arc::new(Stage::default());
                let task = connections.spawn(connection(stream, client, routes.clone(), stage.clone()));
                places.0.push_back((stage, task));
            }
            // Everybody is busy with something that must not be cut off.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(
                    "admin port: a connection cannot be accepted: {error}; raise the limit of open files (LimitNOFILE=)"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request and its answer. Whoever is slow or speaks no HTTP is cut off.
async fn connection(stream: TcpStream, client: SocketAddr, routes: Arc<Routes>, stage: Arc<Stage>) {
    let service = service_fn(|request| {
        let (routes, stage) = (routes.clone(), stage.clone());
        async move { Ok::<_, Infallible>(routes.answer(&request, client, &stage).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let limit = async {
        tokio::time::sleep(CONNECTION_LIMIT).await;
        if stage.is(Stage::FOLLOWS) {
            tokio::time::sleep(STREAM_LIMIT).await;
        }
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%client, %error, "admin port: connection");
        },
        () = limit => tracing::debug!(%client, "admin port: connection took too long"),
    }
}

#[cfg(test)]
mod tests;
