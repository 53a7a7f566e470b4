//! An etcd as arbiter: one key with a lease, over etcd's JSON gateway (`/v3/…`).
//!
//! The key is there while its lease lives. A node that needs the lease makes one and puts the key under it
//! if nobody has; renews it; and gives it back by ending it. A lease is asked for in whole seconds; etcd
//! may make it longer, which does no harm.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tandem_replication::arbiter::{Ask, Asker, Outcome, Wish};
use tandem_replication::driver::{Arbitrate, BoxFuture};

use crate::config::HostPort;

/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// One member may take so long before the next is asked; the caller bounds the whole.
const MEMBER_TIME: Duration = Duration::from_millis(250);
/// etcd gives no shorter lease.
const LEASE_MIN: Duration = Duration::from_secs(2);
const PORT: u16 = 2379;

/// See the module.
#[derive(Debug)]
pub(super) struct Etcd {
    members: Vec<String>,
    key: String,
    /// The member that answered last.
    member: AtomicUsize,
    /// The lease this process made and has not lost.
    lease: Mutex<Option<String>>,
}

/// How long a lease is, at least `wanted`.
pub(super) fn lease(wanted: Duration) -> Duration {
    Duration::from_secs(wanted.max(LEASE_MIN).as_millis().div_ceil(1000) as u64)
}

impl Etcd {
    pub(super) fn new(addresses: &[HostPort], name: &str) -> Self {
        let member = |address: &HostPort| match (address.port, address.host.to_string()) {
            (port, host) if host.contains(':') => format!("[{host}]:{}", port.unwrap_or(PORT)),
            (port, host) => format!("{host}:{}", port.unwrap_or(PORT)),
        };
        Self {
            members: addresses.iter().map(member).collect(),
            key: BASE64_STANDARD.encode(format!("tandem/{name}/serves-alone")),
            member: AtomicUsize::new(0),
            lease: Mutex::new(None),
        }
    }

    fn known(&self) -> Option<String> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, lease: Option<String>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    async fn hold(&self, asker: Asker, lease: Duration) -> Result<Outcome, String> {
        if let Some(known) = self.known() {
            if self.renewed(&known).await? {
                return Ok(Outcome::Granted);
            }
            self.remember(None);
        }
        let mine = BASE64_STANDARD.encode(format!("{:032x}/{:016x}", asker.node, asker.boot));
        let found = self.call("kv/range", json!({ "key": self.key })).await?;
        if let Some(entry) = found["kvs"].get(0) {
            // An answer that was lost on its way may have been a yes.
            let lease = entry["lease"].as_str().unwrap_or_default();
            if entry["value"] == *mine && self.renewed(lease).await? {
                self.remember(Some(lease.to_owned()));
                return Ok(Outcome::Granted);
            }
            return Ok(Outcome::Refused);
        }
        let made = self.call("lease/grant", json!({ "TTL": lease.as_secs().to_string() })).await?;
        let id = made["ID"].as_str().ok_or("a lease without an id")?.to_owned();
        let put = json!({
            "compare": [{ "target": "CREATE", "result": "EQUAL", "key": self.key, "createRevision": "0" }],
            "success": [{ "requestPut": { "key": self.key, "value": mine, "lease": id } }],
        });
        if self.call("kv/txn", put).await?["succeeded"] == true {
            self.remember(Some(id));
            return Ok(Outcome::Granted);
        }
        let _ended = self.call("lease/revoke", json!({ "ID": id })).await;
        Ok(Outcome::Refused)
    }

    /// Whether the lease lives, for its whole time from now.
    async fn renewed(&self, lease: &str) -> Result<bool, String> {
        let answer = self.call("lease/keepalive", json!({ "ID": lease })).await?;
        let left = answer["result"]["TTL"].as_str().and_then(|left| left.parse::<u64>().ok());
        Ok(left.is_some_and(|left| left > 0))
    }

    async fn ask_for(&self, asker: Asker, ask: Ask) -> Result<Outcome, String> {
        match ask.wish {
            Wish::Hold(span) => self.hold(asker, lease(span.into())).await,
            Wish::Look => self.call("kv/range", json!({ "key": self.key })).await.map(|_| Outcome::Heard),
            Wish::Release => {
                let known = self.known();
                self.remember(None);
                match known {
                    Some(id) => self.call("lease/revoke", json!({ "ID": id })).await.map(|_| Outcome::Heard),
                    None => Ok(Outcome::Heard),
                }
            }
        }
    }

    /// One request, to one member after the other, beginning with the one that answered last.
    async fn call(&self, what: &str, body: Value) -> Result<Value, String> {
        let first = self.member.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for turn in 0..self.members.len() {
            let index = (first + turn) % self.members.len();
            let member = &self.members[index];
            match tokio::time::timeout(MEMBER_TIME, post(member, what, &body)).await {
                Ok(Ok(answer)) => {
                    self.member.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(why)) => failures.push(format!("{member}: {why}")),
                Err(_) => failures.push(format!("{member}: no answer")),
            }
        }
        Err(failures.join("; "))
    }
}

impl Arbitrate for Etcd {
    fn ask(&self, asker: Asker, ask: Ask) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            self.ask_for(asker, ask).await.unwrap_or_else(|why| {
                tracing::debug!("etcd: {why}");
                Outcome::Silent
            })
        })
    }

    fn name(&self) -> String {
        format!("etcd {}", self.members.join(", "))
    }
}

async fn post(member: &str, what: &str, body: &Value) -> Result<Value, String> {
    let stream = tokio::net::TcpStream::connect(member).await.map_err(|why| why.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| why.to_string())?;
    let request = hyper::Request::post(format!("/v3/{what}"))
        .header("host", member)
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|why| why.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|why| why.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|why| why.to_string())?.to_bytes();
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body).trim()));
        }
        serde_json::from_slice(&body).map_err(|why| format!("an answer that is no JSON: {why}"))
    };
    tokio::select! {
        answer = answer => answer,
        Err(why) = connection => Err(why.to_string()),
    }
}
