//! Two wires between two nodes on this machine, and what befalls a wire: our own proxy in front of each
//! node, through which the other one reaches it.

use std::time::Duration;

use crate::fault_proxy::{Direction, FaultProxy, Faults};
use crate::harness::Pair;

/// A proxy in front of each node, for the other.
pub(crate) struct Wires([FaultProxy; 2]);

impl Wires {
    /// Between the nodes of a pair that was not started yet.
    pub(crate) fn between(pair: &mut Pair) -> Self {
        let wires = [0, 1].map(|index: usize| {
            let node = &pair.nodes[index];
            FaultProxy::start("127.0.0.1", node.replication_address())
        });
        for (index, wire) in wires.iter().enumerate() {
            pair.nodes[1 - index].peer = wire.address().to_string();
        }
        Self(wires)
    }

    /// Of all connections, whoever dialled them.
    pub(crate) fn set(&self, faults: &Faults) {
        self.0.iter().for_each(|wire| wire.set_both(faults));
    }

    /// For so long.
    pub(crate) fn suffer(&self, faults: &Faults, millis: u64) {
        self.set(faults);
        std::thread::sleep(Duration::from_millis(millis));
        self.set(&Faults::default());
    }

    /// The dialled end of every connection goes on believing in it; the other is closed.
    pub(crate) fn half_open(&self) {
        self.0.iter().for_each(FaultProxy::half_open);
    }

    /// The byte that many bytes from now has a bit flipped, on either wire.
    pub(crate) fn corrupt(&self, direction: Direction, after: u64) {
        let faults = Faults { corrupt_after: Some(after), ..Faults::default() };
        self.0.iter().for_each(|wire| wire.set(direction, faults.clone()));
    }

    /// From now on nothing that this node sends on the data connection arrives.
    pub(crate) fn swallow_data_from(&self, node: usize) {
        // Whichever of the two dialled it.
        self.0[node].swallow_data_of(Direction::Back);
        self.0[1 - node].swallow_data_of(Direction::Forth);
    }

    /// Every connection is reset, and new ones are until [`Wires::mend`].
    pub(crate) fn cut(&self) {
        self.0.iter().for_each(|wire| wire.refuse(true));
        self.reset();
    }

    /// Every connection is reset.
    pub(crate) fn reset(&self) {
        self.0.iter().for_each(FaultProxy::reset);
    }

    /// Everything passes again.
    pub(crate) fn mend(&self) {
        self.set(&Faults::default());
        self.0.iter().for_each(|wire| wire.refuse(false));
    }
}
