//! Connections of a worker by number: what all ways of waiting for sockets have in common.

use std::sync::atomic::Ordering;

use super::Ticket;
use super::worker::Shared;

/// A connection that has a place.
pub(super) trait Placed {
    fn ticket(&self) -> &Ticket;
}

/// Connections, each with a number of its own for as long as it stays. Numbers are used again.
pub(super) struct Places<T> {
    places: Vec<Option<T>>,
    /// Places that nobody has.
    free: Vec<u32>,
    /// The engine second in which silent connections were looked for.
    swept: u32,
}

impl<T: Placed> Places<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), swept: 0 }
    }

    /// The number that [`Places::put`] gives next.
    pub(super) fn next(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.places.len() as u32)
    }

    /// A connection comes to stay.
    pub(super) fn put(&mut self, connection: T) {
        match self.free.pop() {
            Some(at) => self.places[at as usize] = Some(connection),
            None => self.places.push(Some(connection)),
        }
    }

    /// The connection of that number, if it is still there.
    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        self.places.get(at as usize)?.as_ref()
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.places.get_mut(at as usize)?.as_mut()
    }

    /// A connection goes.
    pub(super) fn take(&mut self, at: u32) -> Option<T> {
        let connection = self.places.get_mut(at as usize)?.take()?;
        self.free.push(at);
        Some(connection)
    }

    /// The numbers of all for which that holds.
    pub(super) fn which(&self, holds: impl Fn(&T) -> bool) -> Vec<u32> {
        let at = |place: &Option<T>| place.as_ref().is_some_and(&holds);
        (0..).zip(&self.places).filter(|(_, place)| at(place)).map(|(number, _)| number).collect()
    }

    /// Who was silent for longer than clients may be; they are looked for once a second.
    pub(super) fn silent(&mut self, shared: &Shared) -> Vec<u32> {
        let now = shared.now().secs;
        match shared.service.stats.idle_timeout() {
            Some(limit) if self.swept != now => {
                self.swept = now;
                self.which(|connection| {
                    let last = connection.ticket().info.last_command.load(Ordering::Relaxed);
                    // Whole seconds: one that has just begun does not count.
                    u64::from(now.saturating_sub(last)) > limit.as_secs()
                })
            }
            _ => Vec::new(),
        }
    }
}
