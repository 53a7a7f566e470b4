//! A whole node over a map: store, backlog, driver, and a host that remembers what it was told.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tandem_replication::channel::Loose;
use tandem_replication::driver::{BoxFuture, Config, Handle, Host, Snapshot, now, start};
use tandem_replication::node::GateView;
use tandem_replication::role::State;
use tandem_replication::status::Load;
use tandem_replication::time::Mono;
use tandem_replication::transport::{PeerAddress, bind};

use super::map_store::MapStore;

/// Long enough for a busy machine; nothing waits that long when it works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Remembers the gate, and collects proxy connections.
pub struct TestHost {
    /// Held for moments only: the pair's thread wants it, too.
    gate: Mutex<GateView>,
    /// Writes being executed.
    inside: AtomicU64,
    proxies: Mutex<mpsc::Sender<Loose>>,
}

impl Host for TestHost {
    fn gate(&self, view: GateView) {
        *self.gate.lock().expect("not poisoned") = view;
    }

    fn drained(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            while self.inside.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }

    fn proxy(&self, channel: Loose) {
        let _ = self.proxies.lock().expect("not poisoned").send(channel);
    }

    fn load(&self) -> Load {
        Load { release: "test".to_string(), ..Load::default() }
    }
}

/// Listeners of a node that is not there yet.
pub struct Place {
    pub listeners: Vec<TcpListener>,
    pub address: SocketAddr,
}

impl Place {
    /// A free port of `ip`.
    pub fn on(ip: &str) -> Self {
        Self::at(SocketAddr::new(ip.parse().expect("an address"), 0))
    }

    /// Exactly there.
    pub fn at(address: SocketAddr) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match bind(&[address]) {
                Ok(listeners) => {
                    let address = listeners[0].local_addr().expect("bound");
                    return Self { listeners, address };
                }
                // The node that was there may be on its way out.
                Err(why) => assert!(Instant::now() < deadline, "{why}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// See the module.
pub struct TestNode {
    pub handle: Handle,
    pub host: Arc<TestHost>,
    pub store: Arc<MapStore>,
    pub address: SocketAddr,
    pub proxied: mpsc::Receiver<Loose>,
}

impl TestNode {
    /// A node at `place` with the quick profile, whose peer is at `peer`.
    pub fn start(place: Place, peer: Option<SocketAddr>, change: impl FnOnce(&mut Config)) -> Self {
        // With RUST_LOG set, what the nodes have to say.
        if std::env::var_os("RUST_LOG").is_some() {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
        }
        let mut config = Config::new();
        config.peer = peer.map(|peer| PeerAddress { host: peer.ip().to_string(), port: peer.port() });
        config.listeners = place.listeners;
        config.heartbeat = Duration::from_millis(20);
        config.dead_after = Duration::from_millis(250);
        config.start_wait = Duration::from_millis(500);
        change(&mut config);
        let backlog = MapStore::backlog(1 << 20);
        let store = Arc::new(MapStore::new(backlog.clone()));
        let (sender, proxied) = mpsc::channel();
        let host = Arc::new(TestHost {
            gate: Mutex::new(GateView::Park),
            inside: AtomicU64::new(0),
            proxies: Mutex::new(sender),
        });
        let handle = start(config, store.clone(), backlog, host.clone()).expect("it starts");
        Self { handle, host, store, address: place.address, proxied }
    }

    /// Two nodes that know each other, started at the same moment.
    pub fn pair(change: impl Fn(&mut Config)) -> (Self, Self) {
        let (a, b) = (Place::on("127.0.0.2"), Place::on("127.0.0.3"));
        let (at_a, at_b) = (a.address, b.address);
        (Self::start(a, Some(at_b), &change), Self::start(b, Some(at_a), &change))
    }

    /// Everything it tells.
    pub fn status(&self) -> Arc<Snapshot> {
        self.handle.status()
    }

    /// What it is.
    pub fn state(&self) -> State {
        self.status().pair.role.state
    }

    /// Is the control link up?
    pub fn is_linked(&self) -> bool {
        self.status().pair.control_up
    }

    /// Waits until `condition` holds of its status.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&Snapshot) -> bool) {
        eventually(what, || condition(&self.status()));
    }

    /// A client's write, if the gate is open.
    pub fn write(&self, key: &str, value: &[u8]) -> bool {
        self.host.inside.fetch_add(1, Ordering::SeqCst);
        let open = self.confirm().is_some();
        if open {
            self.store.set(key, value);
        }
        self.host.inside.fetch_sub(1, Ordering::SeqCst);
        open
    }

    /// The time, if the gate is open.
    pub fn confirm(&self) -> Option<Mono> {
        let gate = *self.host.gate.lock().expect("not poisoned");
        let at = now();
        matches!(gate, GateView::Serve { until } if at < until).then_some(at)
    }

    /// Ends it without a word, as a crash does.
    pub fn kill(self) {
        drop(self.handle);
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Master first, once there is one master and one backup that has everything.
#[track_caller]
pub fn settled(a: TestNode, b: TestNode) -> (TestNode, TestNode) {
    let is_pair = |one: &TestNode, two: &TestNode| {
        one.state() == State::Master && two.state() == State::Backup && one.status().pair.in_sync
    };
    eventually("a master and a backup in sync", || is_pair(&a, &b) || is_pair(&b, &a));
    if a.state() == State::Master { (a, b) } else { (b, a) }
}
