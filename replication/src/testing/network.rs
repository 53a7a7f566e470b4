//! The made-up network: connections that are FIFO in each direction, and directions that are blocked.

use std::collections::VecDeque;

use crate::frame::{Frame, Link};
use crate::time::{Mono, Span};

/// From which node to the other: 0 is "a to b".
pub type Direction = usize;

/// A connection between two processes.
#[derive(Debug)]
pub struct Connection {
    /// What it is for.
    pub link: Link,
    /// Frames under way, by sending node, each with the epoch its sender was in.
    pub pipes: [VecDeque<(Frame, u64)>; 2],
    /// Whether a delivery is scheduled, by sending node.
    pub pumping: [bool; 2],
    /// Whether each node believes that it is up.
    pub attached: [bool; 2],
    /// It was reset: nothing goes in any more.
    pub broken: bool,
    /// Nothing comes out any more, not even its end, and neither side notices.
    pub stalled: bool,
}

/// All connections and what is wrong with the wire.
#[derive(Debug)]
pub struct Network {
    connections: Vec<Connection>,
    /// Nothing gets through, by sending node.
    pub blocked: [bool; 2],
    /// Connections for the pair cannot pass, but clients' can.
    pub pair_blocked: bool,
    /// Nothing gets through over the second network, by sending node.
    pub second_blocked: [bool; 2],
    /// A message over it takes up to so long.
    pub second_delay_max: Span,
    /// A firewall refuses all connections, as if no process were there.
    pub refused: bool,
    /// A message takes up to so long.
    pub delay_max: Span,
    /// So many of a hundred messages have to be sent again, which takes a while.
    pub loss: u64,
    /// One bit of so many in a thousand messages is wrong.
    pub flips: u64,
    /// Until then, something is under way that takes long.
    pub slow_until: Mono,
    /// The same of the second network.
    pub second_slow_until: Mono,
    /// Since when heartbeats get through, by sending node.
    pub usable_since: [Option<Mono>; 2],
}

impl Default for Network {
    /// A good one.
    fn default() -> Self {
        Self {
            connections: Vec::new(),
            blocked: [false; 2],
            pair_blocked: false,
            second_blocked: [false; 2],
            second_delay_max: DELAY_USUAL,
            refused: false,
            delay_max: DELAY_USUAL,
            loss: 0,
            flips: 0,
            slow_until: Mono(0),
            second_slow_until: Mono(0),
            usable_since: [None; 2],
        }
    }
}

impl Network {
    /// A new connection; returns its number.
    pub fn open(&mut self, link: Link) -> usize {
        self.connections.push(Connection {
            link,
            pipes: [VecDeque::new(), VecDeque::new()],
            pumping: [false; 2],
            attached: [true; 2],
            broken: false,
            stalled: false,
        });
        self.connections.len() - 1
    }

    /// The connection of that number.
    pub fn connection(&mut self, number: usize) -> &mut Connection {
        &mut self.connections[number]
    }

    /// The connection that `node` believes to be up for `link`.
    pub fn attached(&self, node: usize, link: Link) -> Option<usize> {
        let mut all = self.connections.iter().enumerate().rev();
        all.find(|(_, open)| open.link == link && open.attached[node]).map(|(number, _)| number)
    }

    /// The connection that both believe to be up.
    pub fn whole(&self, link: Link) -> Option<usize> {
        let number = self.attached(0, link)?;
        (self.attached(1, link) == Some(number)).then_some(number)
    }

    /// Frames of the pair get through from `node` on that link.
    pub fn passes(&self, link: Link, node: usize) -> bool {
        !self.refused
            && match link {
                Link::Control | Link::Data => !self.blocked[node] && !self.pair_blocked,
                Link::Heartbeat => !self.second_blocked[node],
            }
    }

    /// Clients (and probes) get through, both ways.
    pub fn clients_pass(&self) -> bool {
        self.blocked == [false; 2] && !self.refused
    }

    /// Brings `usable_since` up to date.
    pub fn note_usable(&mut self, now: Mono) {
        let control = self.whole(Link::Control).is_some() && self.delay_max < LONG_DELAY && self.loss == 0;
        let second = self.whole(Link::Heartbeat).is_some() && self.second_delay_max < LONG_DELAY;
        for node in 0..2 {
            let control = control && now >= self.slow_until && self.passes(Link::Control, node);
            let second = second && now >= self.second_slow_until && self.passes(Link::Heartbeat, node);
            if control || second {
                self.usable_since[node].get_or_insert(now);
            } else {
                self.usable_since[node] = None;
            }
        }
    }
}

/// A message usually takes up to so long.
pub(super) const DELAY_USUAL: Span = Span(800);

/// A wire this slow is as good as cut.
pub(super) const LONG_DELAY: Span = Span::from_millis(30);
