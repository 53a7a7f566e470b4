//! How connections come to be: dialling the peer, answering who knocks, and deciding whom to keep.
//!
//! Everything here runs in small tasks beside the loop and ends in one [`Event`] for it, so that a
//! name server, a stranger or a peer that does not answer delays nobody.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::Event;
use super::log::Throttle;
use crate::channel::Channel;
use crate::frame::{Hello, Link};
use crate::handshake::{Agreed, Handshake, HandshakeError, Kind, Opening, Refusal, Side, verdict};
use crate::keys::SharedKeys;
use crate::transport::{self, GreetError, Knock, PeerAddress, Resolver};
use crate::{node, wire};

/// Connections that have not proven anything yet; beyond, the oldest has to go.
const UNPROVEN_MAX: usize = 16;
/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// One line for all strangers in this time.
const STRANGERS_EVERY: Duration = Duration::from_secs(10);
/// A probe asks so often before it believes that nobody is there.
const PROBE_TRIES: usize = 3;
/// And waits so long in between.
const PROBE_PAUSE: Duration = Duration::from_millis(5);

/// What both sides say of themselves once both have proven the key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Introduction {
    /// For the node.
    pub(super) hello: Hello,
    /// Where this node listens for its peer.
    pub(super) replication_port: u16,
}

/// A connection whose other end has proven that it holds the key.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) channel: Channel,
    pub(super) address: SocketAddr,
    pub(super) side: Side,
    pub(super) kind: Kind,
    pub(super) peer: Introduction,
}

/// What all tasks of this module need.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) keys: SharedKeys,
    pub(super) introduction: Arc<Mutex<Introduction>>,
    pub(super) events: mpsc::Sender<Event>,
    /// Connections sent away since the process began.
    pub(super) refused: Arc<AtomicU64>,
    /// There is a control link.
    pub(super) linked: Arc<AtomicBool>,
    /// Where outgoing connections come from, if this node listens on one address only.
    pub(super) source: Option<IpAddr>,
    pub(super) dead_after: Duration,
}

impl Doors {
    /// Accepts for ever. Strangers share a few places and get little time.
    pub(super) async fn accept(self, listener: TcpListener, unproven: Unproven) {
        let mut throttle = Throttle::new(STRANGERS_EVERY);
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let doors = self.clone();
                    let log = unproven.log.clone();
                    let task = tokio::spawn(async move { doors.answer(stream, address, &log).await });
                    unproven.admit(task.abort_handle());
                }
                Err(why) => {
                    throttle.say("accept", |more| {
                        tracing::warn!("link: connections of the peer cannot be accepted: {why}; raise the limit of open files{more}");
                    });
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn answer(&self, stream: TcpStream, address: SocketAddr, log: &Mutex<Throttle>) {
        let mut channel = Channel::from(stream);
        match self.greet_as_acceptor(&mut channel).await {
            Ok((kind, peer)) => {
                let greeted = Greeted { channel, address, side: Side::Acceptor, kind, peer };
                let _ = self.events.send(Event::Greeted(Box::new(greeted))).await;
            }
            Err(why) => {
                // A port scan, or a node that knocks to see whether we live.
                if matches!(&why, GreetError::Io(_)) {
                    return tracing::debug!("a connection from {address} ended before it spoke: {why}");
                }
                self.refused.fetch_add(1, Ordering::Relaxed);
                // Only so that the status is published; the count is what matters.
                let _ = self.events.try_send(Event::Refused);
                let text = format!(
                    "stranger: refused a connection from {}: {why}; only the peer should reach this port",
                    address.ip()
                );
                log.lock().unwrap_or_else(PoisonError::into_inner).say("stranger", |more| {
                    tracing::warn!("{text}{more}");
                });
            }
        }
    }

    async fn greet_as_acceptor(&self, channel: &mut Channel) -> Result<(Kind, Introduction), GreetError> {
        transport::tune(&channel.stream, self.dead_after)?;
        let keys = self.keys.now();
        let opening = Opening::new(Kind::Control, 0, transport::nonce()?);
        let handshake = Handshake::acceptor(keys.secrets.clone(), opening, self.introduce(None));
        let agreed = transport::greet(channel, Side::Acceptor, &keys, handshake).await?;
        match read_introduction(&agreed) {
            Ok(peer) => Ok((agreed.kind, peer)),
            Err(refusal) => {
                channel.try_send(&verdict(Err(refusal)));
                Err(HandshakeError::Refusing(refusal).into())
            }
        }
    }

    /// Dials the peer once for a control connection or the second path, every address its name has, after
    /// `pause`.
    pub(super) async fn dial_peer(self, kind: Kind, mut resolver: Resolver, pause: Duration) {
        sleep(pause).await;
        let (mut failures, mut refused) = (Vec::new(), true);
        match resolver.resolve().await {
            // The peer was quicker.
            _ if kind == Kind::Control && self.linked.load(Ordering::Relaxed) => {}
            Err(why) => {
                refused = false;
                failures.push(why);
            }
            Ok(addresses) => {
                for address in addresses {
                    match self.dial(address, kind).await {
                        Ok(greeted) => {
                            let event = Event::Dialled { kind, resolver, result: Ok(Box::new(greeted)) };
                            let _ = self.events.send(event).await;
                            return;
                        }
                        // Another connection is in use: nothing to report.
                        Err(GreetError::Handshake(HandshakeError::Refused(Refusal::Duplicate))) => {
                            failures.clear();
                            break;
                        }
                        Err(why) => {
                            refused &= is_refusal(&why);
                            failures.push(format!("{address}: {}", explain(&why)));
                        }
                    }
                }
            }
        }
        let unreached = Unreached { why: failures.join("; "), refused };
        let _ = self.events.send(Event::Dialled { kind, resolver, result: Err(unreached) }).await;
    }

    /// Dials a data connection once, after `pause`.
    pub(super) async fn dial_data(self, address: SocketAddr, pause: Duration) {
        sleep(pause).await;
        let result = self.dial(address, Kind::Data).await;
        let _ = self.events.send(Event::DialledData(result.map(Box::new).map_err(|why| explain(&why)))).await;
    }

    /// Finds an address under which the peer that dialled in can be dialled, too: the configured one,
    /// or the one it came from. Which one is right cannot be told from its connection: there may be
    /// address translation in between.
    pub(super) async fn find_peer(self, boot_id: u64, peer: Option<PeerAddress>, guess: SocketAddr) {
        let mut candidates = match peer {
            Some(peer) => Resolver::new(peer).resolve().await.unwrap_or_default(),
            None => Vec::new(),
        };
        candidates.push(guess);
        for address in candidates {
            if transport::connect(address, self.source, self.patience()).await.is_ok() {
                let _ = self.events.send(Event::Found(boot_id, address)).await;
                return;
            }
        }
        tracing::debug!("the peer dialled in but cannot be dialled");
    }

    fn patience(&self) -> Duration {
        (self.dead_after / 2).clamp(Duration::from_millis(100), Duration::from_secs(2))
    }

    async fn dial(&self, address: SocketAddr, kind: Kind) -> Result<Greeted, GreetError> {
        let stream = transport::connect(address, self.source, self.patience()).await?;
        transport::tune(&stream, self.dead_after)?;
        let mut channel = Channel::from(stream);
        let keys = self.keys.now();
        let opening = Opening::new(kind, 0, transport::nonce()?);
        let hello = self.introduce(link_of(kind));
        let handshake = Handshake::dialler(keys.secrets.clone(), opening, hello);
        let agreed = transport::greet(&mut channel, Side::Dialler, &keys, handshake).await?;
        let peer = read_introduction(&agreed)
            .map_err(|refusal| GreetError::from(HandshakeError::Refusing(refusal)))?;
        transport::await_verdict(&mut channel).await?;
        Ok(Greeted { channel, address, side: Side::Dialler, kind, peer })
    }

    /// This node's introduction, as bytes.
    pub(super) fn introduce(&self, link: Option<Link>) -> Vec<u8> {
        let mut introduction = self.introduction.lock().unwrap_or_else(PoisonError::into_inner).clone();
        introduction.hello.link = link;
        // It is a handful of numbers and a release name; were it ever too long, the peer says so.
        wire::encode(&introduction).unwrap_or_default()
    }
}

fn link_of(kind: Kind) -> Option<Link> {
    match kind {
        Kind::Control => Some(Link::Control),
        Kind::Data => Some(Link::Data),
        Kind::Proxy | Kind::Heartbeat | Kind::Witness => None,
    }
}

fn read_introduction(agreed: &Agreed) -> Result<Introduction, Refusal> {
    let mut peer: Introduction = wire::decode(&agreed.hello).map_err(|_| Refusal::Unreadable)?;
    // What the connection is for was proven in its opening.
    peer.hello.link = link_of(agreed.kind);
    Ok(peer)
}

/// What became of an attempt to dial the peer.
#[derive(Debug)]
pub(super) struct Unreached {
    /// Empty if there is nothing to report.
    pub(super) why: String,
    /// Its machine says that nobody listens there, under every address.
    pub(super) refused: bool,
}

fn is_refusal(why: &GreetError) -> bool {
    matches!(why, GreetError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// In the words of whoever dialled.
fn explain(why: &GreetError) -> String {
    match why {
        _ if is_refusal(why) => "nobody listens there (yet)".to_string(),
        GreetError::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            "no answer: is the machine up, and the port open in its firewall?".to_string()
        }
        _ => why.to_string(),
    }
}

/// The places of those who have not proven anything yet.
#[derive(Clone)]
pub(super) struct Unproven {
    places: Arc<Mutex<VecDeque<AbortHandle>>>,
    pub(super) log: Arc<Mutex<Throttle>>,
}

impl Unproven {
    pub(super) fn new() -> Self {
        Self { places: Arc::default(), log: Arc::new(Mutex::new(Throttle::new(STRANGERS_EVERY))) }
    }

    pub(super) fn admit(&self, task: AbortHandle) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|task| !task.is_finished());
        if places.len() >= UNPROVEN_MAX
            && let Some(oldest) = places.pop_front()
        {
            oldest.abort();
            self.log.lock().unwrap_or_else(PoisonError::into_inner).say("crowd", |more| {
                tracing::warn!(
                    "more than {UNPROVEN_MAX} connections to the replication port that say nothing: dropping the oldest; only the peer should reach this port{more}"
                );
            });
        }
        places.push_back(task);
    }
}

/// What this node is and whom it may be paired with, for judging who introduces itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge {
    pub(super) node_id: u128,
    pub(super) boot_id: u64,
    pub(super) partner: Option<Partner>,
}

/// The node on the other end of the control link, now or last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partner {
    pub(super) node_id: u128,
    pub(super) boot_id: u64,
    /// Its replication listener.
    pub(super) address: SocketAddr,
    /// A connection to that address was made: only then does a refusal there mean anything.
    pub(super) proven: bool,
    /// Where its connection came from, or led to.
    pub(super) remote: IpAddr,
    /// Of the control link, while it is up: who dialled it, and when.
    pub(super) link: Option<(Side, Instant)>,
    /// The same of the second path.
    pub(super) second: Option<(Side, Instant)>,
    /// When it was last linked.
    pub(super) seen: Instant,
}

impl Judge {
    /// May this connection stay? `dead_after`: how long a partner's place is kept for it.
    pub(super) fn judge(&self, greeted: &Greeted, now: Instant, dead_after: Duration) -> Result<(), Refusal> {
        let hello = &greeted.peer.hello;
        if greeted.kind == Kind::Witness {
            return Err(Refusal::NoWitness);
        }
        if hello.node_id == self.node_id {
            let myself = hello.boot_id == self.boot_id;
            return Err(if myself { Refusal::Myself } else { Refusal::CopiedIdentity });
        }
        let Some(partner) = &self.partner else {
            let first = matches!(greeted.kind, Kind::Control | Kind::Heartbeat);
            return if first { Ok(()) } else { Err(Refusal::Unlinked) };
        };
        if hello.node_id != partner.node_id {
            // A new node at the old one's address has replaced it; elsewhere, it may be a third one.
            let gone = partner.link.is_none()
                && partner.second.is_none()
                && (greeted.address.ip() == partner.remote || now.duration_since(partner.seen) >= dead_after);
            return match greeted.kind {
                Kind::Control | Kind::Heartbeat if gone => Ok(()),
                _ => Err(Refusal::Taken),
            };
        }
        let link = if greeted.kind == Kind::Heartbeat { partner.second } else { partner.link };
        match (greeted.kind, link) {
            (Kind::Control | Kind::Heartbeat, None) => Ok(()),
            (Kind::Control | Kind::Heartbeat, Some(_)) if hello.boot_id != partner.boot_id => Ok(()),
            (Kind::Control | Kind::Heartbeat, Some((side, since))) => {
                self.prefer(greeted, side, now.duration_since(since))
            }
            (Kind::Proxy, Some(_)) if hello.boot_id == partner.boot_id => Ok(()),
            // Whoever dialled the control link dials this one: no second rule for a second pair.
            (Kind::Data, Some((side, _))) if hello.boot_id == partner.boot_id && side == greeted.side => {
                Ok(())
            }
            _ => Err(Refusal::Unlinked),
        }
    }

    /// Two connections for the same between the same two processes: the one dialled by the lower node
    /// stays. But a node dials only when it has none, so a second one some time later, or from the
    /// same side, means that the first is dead.
    fn prefer(&self, greeted: &Greeted, side: Side, age: Duration) -> Result<(), Refusal> {
        let lower = self.node_id < greeted.peer.hello.node_id;
        let dialled_by_lower = (greeted.side == Side::Dialler) == lower;
        if greeted.side == side || dialled_by_lower || age > transport::HANDSHAKE_TIME {
            return Ok(());
        }
        Err(Refusal::Duplicate)
    }
}

/// Asks all of the peer's ports for a sign of life. `replication` is `None` unless that address is
/// known to be right, and then nobody is declared dead.
pub(super) async fn probe(
    replication: Option<SocketAddr>,
    client: Option<SocketAddr>,
    patience: Duration,
) -> node::Probe {
    let asked = async {
        for attempt in 0..PROBE_TRIES {
            if attempt > 0 {
                sleep(PROBE_PAUSE).await;
            }
            let (replication, client) = tokio::join!(
                async {
                    match replication {
                        Some(address) => Some(transport::knock_replication(address, patience).await),
                        None => None,
                    }
                },
                async {
                    match client {
                        Some(address) => Some(transport::knock_client(address, patience).await),
                        None => None,
                    }
                }
            );
            match (replication, client) {
                (_, Some(Knock::Answered)) => return node::Probe::Answers,
                (Some(Knock::Refused), Some(Knock::Refused) | None) => {}
                _ => return node::Probe::Silent,
            }
        }
        node::Probe::Refused
    };
    tokio::time::timeout(patience, asked).await.unwrap_or(node::Probe::Silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    async fn greeted(side: Side, kind: Kind, node_id: u128, boot_id: u64) -> Greeted {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            features: 0,
            link: link_of(kind),
            node_id,
            boot_id,
            epoch: 0,
            client_port: 0,
            release: String::new(),
        };
        let stream = TcpStream::connect(address).await.expect("it listens");
        Greeted {
            channel: stream.into(),
            address,
            side,
            kind,
            peer: Introduction { hello, replication_port: 0 },
        }
    }

    fn judge(node_id: u128, link: Option<(Side, Duration)>) -> Judge {
        let now = Instant::now();
        let partner = Partner {
            node_id: 5,
            boot_id: 50,
            address: SocketAddr::from(([127, 0, 0, 9], 1)),
            proven: true,
            remote: IpAddr::from([127, 0, 0, 9]),
            link: link.map(|(side, age)| (side, now - age)),
            second: None,
            seen: now,
        };
        Judge { node_id, boot_id: 1, partner: Some(partner) }
    }

    /// What both nodes say of a second connection, when the first is in use.
    async fn second(first_by_lower: bool, second_by_lower: bool, age: Duration) -> [Result<(), Refusal>; 2] {
        let side =
            |lower: bool, by_lower: bool| if lower == by_lower { Side::Dialler } else { Side::Acceptor };
        let mut verdicts = [Ok(()); 2];
        // The partner is 5: seen from 4 we are the lower one, seen from 6 the higher.
        for (verdict, (node_id, lower)) in verdicts.iter_mut().zip([(4, true), (6, false)]) {
            let judge = judge(node_id, Some((side(lower, first_by_lower), age)));
            let new = greeted(side(lower, second_by_lower), Kind::Control, 5, 50).await;
            *verdict = judge.judge(&new, Instant::now(), PATIENCE);
        }
        verdicts
    }

    #[tokio::test]
    async fn of_two_connections_both_nodes_keep_the_same_one() {
        let young = Duration::from_millis(1);
        assert_eq!(second(true, false, young).await, [Err(Refusal::Duplicate); 2]);
        assert_eq!(second(false, true, young).await, [Ok(()); 2]);
        // Whoever dials again has lost the first; so has whoever dials long after.
        assert_eq!(second(true, true, young).await, [Ok(()); 2]);
        assert_eq!(second(false, false, young).await, [Ok(()); 2]);
        assert_eq!(second(true, false, 2 * transport::HANDSHAKE_TIME).await, [Ok(()); 2]);
    }

    #[tokio::test]
    async fn a_restarted_peer_replaces_itself_and_only_its_new_process_may_speak() {
        let linked = judge(4, Some((Side::Acceptor, Duration::ZERO)));
        let now = Instant::now();
        for (kind, boot_id, expected) in [
            (Kind::Control, 51, Ok(())),
            (Kind::Data, 50, Ok(())),
            (Kind::Data, 51, Err(Refusal::Unlinked)),
            (Kind::Proxy, 50, Ok(())),
            (Kind::Proxy, 51, Err(Refusal::Unlinked)),
        ] {
            let new = greeted(Side::Acceptor, kind, 5, boot_id).await;
            assert_eq!(linked.judge(&new, now, PATIENCE), expected, "{kind} {boot_id}");
        }
        let wrong_way = greeted(Side::Dialler, Kind::Data, 5, 50).await;
        assert_eq!(linked.judge(&wrong_way, now, PATIENCE), Err(Refusal::Unlinked));
    }

    #[tokio::test]
    async fn a_third_node_waits_until_the_partner_is_gone() {
        let third = greeted(Side::Acceptor, Kind::Control, 7, 70).await;
        let now = Instant::now();
        let linked = judge(4, Some((Side::Acceptor, Duration::ZERO)));
        assert_eq!(linked.judge(&third, now, PATIENCE), Err(Refusal::Taken));
        let lost = judge(4, None);
        assert_eq!(lost.judge(&third, now, PATIENCE), Err(Refusal::Taken), "its place is kept for a while");
        assert_eq!(lost.judge(&third, now + 2 * PATIENCE, PATIENCE), Ok(()));
        // At the partner's own address it is its successor.
        let mut successor = judge(4, None);
        if let Some(partner) = &mut successor.partner {
            partner.remote = third.address.ip();
        }
        assert_eq!(successor.judge(&third, now, PATIENCE), Ok(()));
        let third = greeted(Side::Acceptor, Kind::Data, 7, 70).await;
        assert_eq!(successor.judge(&third, now, PATIENCE), Err(Refusal::Taken));
    }
}
