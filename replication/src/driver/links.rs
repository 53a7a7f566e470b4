//! Links come and go: which connections become one, what is known of the node at the other end, and
//! when to dial.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::connection::{Broken, Connection};
use super::doors::{Greeted, Judge, Partner, probe};
use super::run::Loop;
use super::{Event, now};
use crate::frame::Link;
use crate::handshake::{Kind, Refusal, Side, verdict};
use crate::node::Down;
use crate::transport::Resolver;

/// A link that lived so long was a good one: dial again without a pause.
const GOOD_LINK: Duration = Duration::from_millis(100);
/// The same trouble is repeated in the log after that time.
pub(super) const REPEAT_EVERY: Duration = Duration::from_secs(60);

impl Loop {
    /// Keeps a connection, or sends it away.
    pub(super) fn adopt(&mut self, mut greeted: Greeted) {
        let judge = Judge { node_id: self.node_id, boot_id: self.boot_id, partner: self.partner };
        let judgement = judge.judge(&greeted, Instant::now(), self.dead_after);
        let told = match greeted.side {
            Side::Acceptor => greeted.channel.try_send(&verdict(judgement)),
            Side::Dialler => true,
        };
        match judgement {
            Err(refusal) => self.refuse(&greeted, refusal),
            Ok(()) if told => match greeted.kind {
                Kind::Control => self.link_control(greeted),
                Kind::Data => self.link_data(greeted),
                Kind::Proxy => match greeted.channel.loosen() {
                    Ok(channel) => self.host.proxy(channel),
                    Err(why) => tracing::warn!(
                        "a connection for handed-on requests is lost: {why}; clients of the backup connect again"
                    ),
                },
                Kind::Heartbeat => self.link_second(greeted),
                // The judge has refused them.
                Kind::Witness => {}
            },
            Ok(()) => tracing::debug!("{} left before it was welcomed", greeted.address),
        }
    }

    fn refuse(&mut self, greeted: &Greeted, refusal: Refusal) {
        let hello = &greeted.peer.hello;
        if matches!(refusal, Refusal::Duplicate | Refusal::Unlinked) {
            return tracing::debug!(
                "refused a {} connection of {}: {refusal}",
                greeted.kind,
                greeted.address
            );
        }
        self.doors.refused.fetch_add(1, Ordering::Relaxed);
        if greeted.side == Side::Dialler {
            return self.unreachable(format!("{}: {refusal}", greeted.address));
        }
        let topic = match refusal {
            Refusal::Myself => "myself",
            Refusal::CopiedIdentity => "copy",
            _ => "third",
        };
        self.throttle.say(topic, |more| {
            tracing::warn!(
                "stranger: refused the node at {} ({:032x}, release {}): {refusal}{more}",
                greeted.address.ip(),
                hello.node_id,
                hello.release
            );
        });
    }

    pub(super) fn unreachable(&mut self, why: String) {
        let known = self.link_problem.as_ref();
        if known.is_none_or(|(known, said)| *known != why || said.elapsed() >= REPEAT_EVERY) {
            let peer = self.configured.as_ref().map_or_else(String::new, |peer| format!(" {peer}"));
            let heard = match self.second {
                Some(_) => {
                    " (it is heard over the second path: nobody takes over, and nothing is replicated)"
                }
                None => "",
            };
            tracing::warn!("link: cannot reach the peer{peer}: {why}; trying again{heard}");
            self.link_problem = Some((why, Instant::now()));
            self.urgent = true;
        }
    }

    fn link_control(&mut self, greeted: Greeted) {
        let Greeted { channel, address, side, peer, .. } = greeted;
        let known = self.partner;
        let same = known.is_some_and(|partner| {
            (partner.node_id, partner.boot_id) == (peer.hello.node_id, peer.hello.boot_id)
        });
        // What belonged to another process is gone before this one is introduced.
        let (down, why) = match same {
            true => (Down::Replaced, "a newer one took its place"),
            false => (Down::Lost, "it led to another process"),
        };
        // Whoever dialled the control link dials the data link. If that was the other one until now, its end
        // may be gone without a word to us: then it would wait for us to dial, and we would see no need.
        if !same || self.data.as_ref().is_some_and(|data| data.side != side) {
            self.lose(Link::Data, Broken { down, why: why.to_string() });
            self.lose(Link::Heartbeat, Broken { down, why: why.to_string() });
        }
        self.lose(Link::Control, Broken { down, why: why.to_string() });
        let (listening, proven) = match (side, known) {
            (Side::Dialler, _) => (address, true),
            (Side::Acceptor, Some(partner)) if same && partner.address.port() != 0 => {
                (partner.address, partner.proven)
            }
            (Side::Acceptor, _) => (SocketAddr::new(address.ip(), peer.replication_port), false),
        };
        if !proven && listening.port() != 0 {
            let (boot_id, configured) = (peer.hello.boot_id, self.configured.clone());
            tokio::spawn(self.doors.clone().find_peer(boot_id, configured, listening));
        }
        tracing::info!(
            "link: up with the node at {address} ({:032x}, release {}), {}",
            peer.hello.node_id,
            peer.hello.release,
            if side == Side::Dialler { "dialled" } else { "accepted" }
        );
        let connection = Connection::new(channel, side, self.payload_bytes_max);
        self.partner = Some(Partner {
            node_id: peer.hello.node_id,
            boot_id: peer.hello.boot_id,
            address: listening,
            proven,
            remote: address.ip(),
            link: Some((side, connection.since)),
            second: known.filter(|_| same).and_then(|partner| partner.second),
            seen: connection.since,
        });
        self.control = Some(connection);
        self.linked.store(true, Ordering::Relaxed);
        (self.link_problem, self.peer_refuses) = (None, false);
        self.data_backoff.reset(true);
        self.urgent = true;
        self.node.handle_link_up(Link::Control, &peer.hello, now());
        self.peer = Some(peer);
    }

    fn link_data(&mut self, greeted: Greeted) {
        self.lose(Link::Data, Broken { down: Down::Replaced, why: "a newer one took its place".to_string() });
        self.data = Some(Connection::new(greeted.channel, greeted.side, self.payload_bytes_max));
        self.urgent = true;
        self.node.handle_link_up(Link::Data, &greeted.peer.hello, now());
    }

    /// A link is gone, if it was there.
    pub(super) fn lose(&mut self, link: Link, broken: Broken) {
        let Some(connection) = self.connection(link).take() else { return };
        let good = connection.since.elapsed() >= GOOD_LINK;
        let name = link.name();
        match broken.down {
            Down::Replaced => tracing::debug!("{name} link: {}", broken.why),
            _ => tracing::warn!("link: lost the {name} connection: {}; trying again", broken.why),
        }
        match link {
            Link::Control => {
                if let Some(partner) = &mut self.partner {
                    (partner.link, partner.seen) = (None, Instant::now());
                }
                self.linked.store(false, Ordering::Relaxed);
                self.backoff.reset(good);
            }
            Link::Data => self.data_backoff.reset(good),
            Link::Heartbeat => {
                if let Some(partner) = &mut self.partner {
                    (partner.second, partner.seen) = (None, Instant::now());
                }
                self.second_backoff.reset(good);
            }
        }
        self.urgent = true;
        self.node.handle_link_down(link, broken.down, now());
    }

    /// Starts the attempts that are due.
    pub(super) fn dial(&mut self) {
        if self.stopped {
            return;
        }
        if self.second.is_none()
            && let Some(resolver) = self.second_resolver.take()
        {
            let pause = self.second_backoff.pause();
            tokio::spawn(self.doors.clone().dial_peer(Kind::Heartbeat, resolver, pause));
        }
        match (&self.control, self.partner) {
            (None, _) => {
                if let Some(resolver) = self.resolver.take() {
                    tokio::spawn(self.doors.clone().dial_peer(Kind::Control, resolver, self.backoff.pause()));
                }
            }
            // Whoever dialled the control link dials the data link.
            (Some(control), Some(partner)) => {
                if control.side == Side::Dialler && self.data.is_none() && !self.dialling_data {
                    self.dialling_data = true;
                    let pause = self.data_backoff.pause();
                    tokio::spawn(self.doors.clone().dial_data(partner.address, pause));
                }
            }
            (Some(_), None) => {}
        }
    }

    pub(super) fn probe(&self) {
        let patience = self.dead_after / 2;
        let (partner, configured) = (self.partner, self.configured.clone());
        let client_port = self.peer.as_ref().map_or(0, |peer| peer.hello.client_port);
        let events = self.doors.events.clone();
        tokio::spawn(async move {
            let replication = match (partner, configured) {
                (Some(partner), _) => Some((partner.address, partner.proven)),
                // Never linked: the configured address is all there is.
                (None, Some(peer)) => {
                    let resolved = timeout(patience, Resolver::new(peer).resolve()).await;
                    let addresses = resolved.ok().and_then(Result::ok);
                    addresses.and_then(|addresses| Some((*addresses.first()?, true)))
                }
                (None, None) => None,
            };
            let client = replication.filter(|_| client_port != 0);
            let client = client.map(|(address, _)| SocketAddr::new(address.ip(), client_port));
            let replication = replication.filter(|(_, proven)| *proven).map(|(address, _)| address);
            let found = probe(replication, client, patience).await;
            let _ = events.send(Event::Probed(found)).await;
        });
    }
}
