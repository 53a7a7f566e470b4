//! An etcd as arbiter: one key with a lease, over etcd's JSON gateway (`/v3/…`).
//!
//! The key is there while its lease lives. A node that needs the lease makes one and puts the key under it
//! if nobody has; renews it; and gives it back by ending it. A lease is asked for in whole seconds; etcd
//! may make it longer, which does no harm.
//!
//! One connection is kept to the member that answered last ([`link`]), so that a takeover does not wait for handshakes.

mod link;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use serde_json::{Value, json};
use tandem_replication::arbiter::{Ask, Asker, Outcome, Wish};
use tandem_replication::driver::{Arbitrate, BoxFuture};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{EtcdAccess, HostPort};
use crate::dial::TlsFiles;

use link::{Failure, Link, Tls};

/// One member may take so long before the next is asked; the caller bounds the whole.
const MEMBER_TIME: Duration = Duration::from_millis(250);
/// etcd gives no shorter lease.
const LEASE_MIN: Duration = Duration::from_secs(2);
const PORT: u16 = 2379;
/// A member hashes a password for so long at most.
const INTRODUCTION_TIME: Duration = Duration::from_secs(10);
/// The log is not told more reasons than these between two answers.
const TROUBLES_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Etcd {
    members: Vec<String>,
    key: String,
    /// Where its files are.
    files: EtcdAccess,
    /// What they held when they were read last.
    access: RwLock<Arc<Access>>,
    /// The member that answered last.
    member: AtomicUsize,
    /// To that member, away while it is in use: a question that is given up takes it with it.
    link: Mutex<Option<Link>>,
    /// What a member gave for user and password, or why it gave nothing.
    token: watch::Sender<Option<Result<String, String>>>,
    /// Asks for one.
    introduction: Mutex<Option<JoinHandle<()>>>,
    /// The lease this process made and has not lost.
    lease: Mutex<Option<String>>,
    /// Why there was no answer, as the log was told since there was one.
    troubles: Mutex<Vec<String>>,
}

/// What an etcd wants before it answers.
#[derive(Debug)]
struct Access {
    tls: Option<Tls>,
    /// Name and password.
    user: Option<(String, String)>,
}

impl Access {
    fn read(files: &EtcdAccess) -> Result<Self, String> {
        let tls = files.tls.then(|| {
            Tls::read(TlsFiles {
                flags: "arbiter-tls",
                authorities: files.authorities.clone(),
                identity: files.identity.clone(),
                or_name: "",
            })
        });
        Ok(Self { tls: tls.transpose()?, user: files.user.as_deref().map(user).transpose()? })
    }
}

fn user(path: &Path) -> Result<(String, String), String> {
    let wrong = |why: &str| format!("--arbiter-auth-file {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|why| wrong(&why.to_string()))?;
    let line = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
    match line.split_once(':') {
        Some((name, password)) if !name.is_empty() => Ok((name.to_owned(), password.to_owned())),
        _ => Err(wrong("its first line is not user:password")),
    }
}

/// How long a lease is, at least `wanted`.
pub(super) fn lease(wanted: Duration) -> Duration {
    Duration::from_secs(wanted.max(LEASE_MIN).as_millis().div_ceil(1000) as u64)
}

impl Etcd {
    /// Reads the files that it takes to get in.
    pub(super) fn new(addresses: &[HostPort], name: &str, files: &EtcdAccess) -> Result<Self, String> {
        let member = |address: &HostPort| match (address.port, address.host.to_string()) {
            (port, host) if host.contains(':') => format!("[{host}]:{}", port.unwrap_or(PORT)),
            (port, host) => format!("{host}:{}", port.unwrap_or(PORT)),
        };
        Ok(Self {
            members: addresses.iter().map(member).collect(),
            key: BASE64_STANDARD.encode(format!("tandem/{name}/serves-alone")),
            files: files.clone(),
            access: RwLock::new(Arc::new(Access::read(files)?)),
            member: AtomicUsize::new(0),
            link: Mutex::default(),
            token: watch::Sender::new(None),
            introduction: Mutex::default(),
            lease: Mutex::default(),
            troubles: Mutex::default(),
        })
    }

    /// Reads its files again, if there are any. On an error what they held before stays in force.
    pub(super) fn reload(&self) -> Result<(), String> {
        let fresh = Access::read(&self.files)?;
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        // Whoever asks next does so as somebody else, perhaps.
        take(&self.link);
        self.token.send_replace(None);
        Ok(())
    }

    /// Whether a reload may change something.
    pub(super) fn has_files(&self) -> bool {
        self.files.tls
    }

    fn known(&self) -> Option<String> {
        lock(&self.lease).clone()
    }

    fn remember(&self, lease: Option<String>) {
        *lock(&self.lease) = lease;
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
            match tokio::time::timeout(MEMBER_TIME, self.put(member, what, &body)).await {
                Ok(Ok(answer)) => {
                    self.member.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(why)) => failures.push(format!("{member} {why}")),
                Err(_) => failures.push(format!("{member} gives no answer")),
            }
        }
        Err(failures.join("; "))
    }

    /// One request to one member, over the connection that is there or a new one.
    async fn put(&self, member: &str, what: &str, body: &Value) -> Result<Value, Failure> {
        let access = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(mut link) = take(&self.link).filter(|link| link.leads_to(member)) {
            match self.put_over(&mut link, &access, what, body).await {
                // It was closed meanwhile, as connections are that are not used.
                Err(Failure::Broken(_)) => {}
                answer => {
                    *lock(&self.link) = Some(link);
                    return answer;
                }
            }
        }
        let mut link = Link::connect(member, access.tls.as_ref()).await?;
        let answer = self.put_over(&mut link, &access, what, body).await;
        if !matches!(answer, Err(Failure::Broken(_))) {
            *lock(&self.link) = Some(link);
        }
        answer
    }

    async fn put_over(
        &self,
        link: &mut Link,
        access: &Arc<Access>,
        what: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        if access.user.is_none() {
            return link.post(what, body, None).await;
        }
        let known = self.token.borrow().clone().and_then(Result::ok);
        if let Some(token) = known {
            match link.post(what, body, Some(&token)).await {
                // Tokens end.
                Err(Failure::Refused(StatusCode::UNAUTHORIZED, _)) => drop(self.token.send_replace(None)),
                answer => return answer,
            }
        }
        let token = self.introduced(link.member(), access).await?;
        link.post(what, body, Some(&token)).await
    }

    /// A token for user and password. To make one takes a member longer than a question may take, on a busy machine: who has
    /// no time to wait for it finds it there the next time.
    async fn introduced(&self, member: &str, access: &Arc<Access>) -> Result<String, Failure> {
        let before = self.token.borrow().clone();
        self.begin_introduction(member, access);
        if let Some(Err(why)) = before {
            // It came when nobody waited for it any more.
            return Err(Failure::Broken(why));
        }
        let mut answered = self.token.subscribe();
        let answer = answered.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer {
            Ok(Some(answer)) => answer.map_err(Failure::Broken),
            _ => Err(Failure::Broken("nobody says who is there".to_owned())),
        }
    }

    fn begin_introduction(&self, member: &str, access: &Arc<Access>) {
        let mut introduction = lock(&self.introduction);
        if introduction.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        // Whatever was said before is over.
        self.token.send_replace(None);
        let (member, access, token) = (member.to_owned(), Arc::clone(access), self.token.clone());
        *introduction = Some(tokio::spawn(async move {
            let asked = tokio::time::timeout(INTRODUCTION_TIME, introduce(&member, &access)).await;
            let asked = asked.unwrap_or_else(|_| Err("gives no answer to --arbiter-auth-file".to_owned()));
            token.send_replace(Some(asked));
        }));
    }

    /// The log is told why there is no answer, each reason once until there is one.
    fn tell(&self, trouble: Option<&str>) {
        let mut told = lock(&self.troubles);
        match trouble {
            None => told.clear(),
            Some(why) if told.len() < TROUBLES_MAX && told.iter().all(|before| before != why) => {
                tracing::warn!("arbiter: {why}");
                told.push(why.to_owned());
            }
            Some(_) => {}
        }
    }
}

async fn introduce(member: &str, access: &Access) -> Result<String, String> {
    let (name, password) = access.user.as_ref().ok_or("there is nobody to introduce")?;
    let mut link = Link::connect(member, access.tls.as_ref()).await.map_err(|why| why.to_string())?;
    let who = json!({ "name": name, "password": password });
    let answer = link.post("auth/authenticate", &who, None).await.map_err(|why| why.to_string())?;
    answer["token"].as_str().map(str::to_owned).ok_or_else(|| "gives no token".to_owned())
}

impl Arbitrate for Etcd {
    fn ask(&self, asker: Asker, ask: Ask) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let outcome = self.ask_for(asker, ask).await;
            self.tell(outcome.as_ref().err().map(|why| &**why));
            outcome.unwrap_or(Outcome::Silent)
        })
    }

    fn name(&self) -> String {
        format!("etcd {}", self.members.join(", "))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<T>(mutex: &Mutex<Option<T>>) -> Option<T> {
    lock(mutex).take()
}
