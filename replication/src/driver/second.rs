//! The second path: a connection over another network that carries heartbeats and nothing else, so that a
//! dead cable is no dead peer.
//!
//! It is made, proven and judged as the control connection is, and either node may have been told of it.

use std::net::SocketAddr;

use super::connection::{Broken, Connection};
use super::doors::{Greeted, Partner};
use super::now;
use super::run::Loop;
use crate::frame::Link;
use crate::node::Down;

impl Loop {
    pub(super) fn link_second(&mut self, greeted: Greeted) {
        let Greeted { channel, address, side, peer, .. } = greeted;
        let same = self.partner.is_some_and(|partner| {
            (partner.node_id, partner.boot_id) == (peer.hello.node_id, peer.hello.boot_id)
        });
        let connection = Connection::new(channel, side, self.payload_bytes_max);
        let second = Some((side, connection.since));
        if same {
            let why = "a newer one took its place".to_string();
            self.lose(Link::Heartbeat, Broken { down: Down::Replaced, why });
        } else {
            // What belonged to another process is gone before this one is introduced.
            for link in Link::ALL {
                let why = "it led to another process".to_string();
                self.lose(link, Broken { down: Down::Lost, why });
            }
            self.partner = Some(Partner {
                node_id: peer.hello.node_id,
                boot_id: peer.hello.boot_id,
                // Where it is on the first network shows when it is linked there.
                address: SocketAddr::new(address.ip(), 0),
                proven: false,
                remote: address.ip(),
                link: None,
                second: None,
                seen: connection.since,
            });
        }
        if let Some(partner) = &mut self.partner {
            partner.second = second;
        }
        tracing::info!("link: the second path is up, to {address}");
        self.second = Some(connection);
        self.urgent = true;
        self.node.handle_link_up(Link::Heartbeat, &peer.hello, now());
        self.peer = Some(peer);
    }

    pub(super) fn second_unreachable(&mut self, why: &str) {
        self.throttle.say("second path", |more| {
            tracing::warn!("link: the second path does not reach the peer: {why}; trying again{more}");
        });
    }
}
