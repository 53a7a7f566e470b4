//! What the pair needs: applying the peer's changes, and walking all items in hash order for a copy.

use tandem_replication::change::Merged;
use tandem_replication::change::{Bytes, Change, Put};

use super::commands::At;
use super::item::Marks;
use super::shard::{Content, Draft, Shard};
use crate::command::{Now, Pages};
use crate::engine::hash::position;

/// Homes a slice of a scan visits at most.
const HOMES_PER_SLICE: usize = 64;

impl Shard {
    /// Applies a put from the peer, unless what is here is newer. `large` is its value if it does not
    /// fit a segment; without memory the older item goes, so that a miss is the worst that remains.
    pub(super) fn apply_put(&mut self, hash: u64, put: &Put<'_>, large: Option<Option<Pages>>, now: Now) {
        self.clock.observe(put.version, now);
        let roomy = self.prepare_quietly(put.key.len() + value_len(&put.value).min(1 << 14), now);
        let old = self.find(hash, put.key);
        if put.version < self.floor || old.is_some_and(|old| self.item(old).header.version >= put.version) {
            return;
        }
        let whole;
        let content = match (&large, &put.value) {
            (Some(None), _) => {
                self.kill_key(hash, put.key);
                return;
            }
            (Some(Some(pages)), _) => Content::Large(pages.clone()),
            (None, Bytes::Whole(bytes)) => Content::Inline(bytes),
            (None, Bytes::Chunks(chunks)) => {
                whole = chunks.concat();
                Content::Inline(&whole)
            }
        };
        let draft = Draft {
            key: put.key,
            content,
            flags: put.flags,
            explicit: put.explicit,
            version: put.version,
            deadline: put.deadline,
            marks: Marks::default()
                .with(Marks::STALE, put.bits.stale)
                .with(Marks::WIN_SENT, put.bits.win_sent)
                .with(Marks::BINARY_KEY, put.bits.binary_key),
        };
        if roomy || self.is_in_place(old, &draft) {
            self.put(hash, &draft, old, now);
        } else {
            self.kill_key(hash, put.key);
        }
    }

    /// See [`crate::engine::Engine::apply_unless`]; `large` as in [`Shard::apply_put`].
    pub(super) fn apply_put_unless(
        &mut self,
        hash: u64,
        put: &Put<'_>,
        large: Option<Option<Pages>>,
        now: Now,
        is_gone: &dyn Fn(usize) -> bool,
    ) {
        let held = self.find_live(At { key: put.key, hash, now, hint: None });
        if held.is_none() && is_gone(self.id) {
            self.clock.observe(put.version, now);
            return;
        }
        self.apply_put(hash, put, large, now);
    }

    /// See [`crate::engine::Engine::merge`]; `large` as in [`Shard::apply_put`].
    pub(super) fn merge_put(
        &mut self,
        hash: u64,
        put: &Put<'_>,
        large: Option<Option<Pages>>,
        now: Now,
        may_create: &dyn Fn(usize) -> bool,
    ) -> Merged {
        self.clock.observe(put.version, now);
        match self.find_live(At { key: put.key, hash, now, hint: None }) {
            _ if put.version < self.floor => return Merged::Refused,
            Some(old) if old.header.version >= put.version => return Merged::Kept,
            None if !may_create(self.id) => return Merged::Refused,
            _ => {}
        }
        self.apply_put(hash, put, large, now);
        let version = put.version;
        match self.find(hash, put.key).filter(|at| self.item(*at).header.version == version) {
            Some(location) => {
                self.record_put(location);
                Merged::Taken
            }
            None => {
                // No memory for it: what it would have replaced is gone too.
                self.record(&Change::Delete { key: put.key, version });
                Merged::Refused
            }
        }
    }

    /// A delete or a touch that changes something is recorded.
    pub(super) fn merge_small(&mut self, hash: u64, change: &Change<'_>, now: Now) -> Merged {
        let Some((key, version)) = change.key_and_version() else { return Merged::Kept };
        // Whatever is written here from now on is newer.
        self.clock.observe(version, now);
        let Some(location) = self.find(hash, key) else { return Merged::Kept };
        let header = self.item(location).header;
        match *change {
            Change::Delete { key, version } if header.version < version => {
                self.apply_delete(hash, key, version, now);
            }
            Change::Touch { key, deadline, version }
                if header.version == version && header.deadline != deadline =>
            {
                self.apply_touch(hash, key, deadline, version, now);
            }
            _ => return Merged::Kept,
        }
        self.record(change);
        Merged::Taken
    }

    pub(super) fn apply_delete(&mut self, hash: u64, key: &[u8], version: u64, now: Now) {
        self.clock.observe(version, now);
        if let Some(location) = self.find(hash, key)
            && self.item(location).header.version < version
        {
            self.kill(hash, location);
        }
    }

    pub(super) fn apply_touch(&mut self, hash: u64, key: &[u8], deadline: u32, version: u64, now: Now) {
        self.clock.observe(version, now);
        if let Some(location) = self.find(hash, key) {
            let mut header = self.item(location).header;
            if header.version == version {
                header.deadline = deadline;
                // Somebody uses it: it outlives the next eviction here, as it did where it is read.
                header.marks = header.marks.with_heat(header.marks.heat().max(1));
                self.set_header(location, header);
            }
        }
    }

    /// Raises the floor: everything of a lower version is dead.
    pub(super) fn flush(&mut self, floor: u64, now: Now) {
        self.clock.observe(floor, now);
        self.floor = self.floor.max(floor);
    }

    /// See [`crate::engine::Engine::scan`].
    pub(super) fn scan(
        &self,
        cursor: u64,
        max_bytes: usize,
        now: Now,
        visit: &mut dyn FnMut(&Change<'_>),
    ) -> Option<u64> {
        let mut cursor = cursor;
        let mut bytes = 0;
        for _ in 0..HOMES_PER_SLICE {
            let Ok(first) = u32::try_from(cursor) else { return None };
            // The home's end is only known when it was visited, so what lies beyond is left out by hash.
            let end = self.index.visit_home(first, |_| {});
            self.index.visit_home(first, |location| {
                let at = u64::from(position(self.hash_at(location)));
                let item = self.item(location);
                if (cursor..end).contains(&at) && !self.is_dead(&item.header, now) {
                    bytes += item.header.slot() + item.large().map_or(0, |id| self.larges.at(id).len());
                    visit(&self.change(location));
                }
            });
            cursor = end;
            if bytes >= max_bytes {
                break;
            }
        }
        (cursor <= u64::from(u32::MAX)).then_some(cursor)
    }
}

/// Bytes of a value.
pub(super) fn value_len(value: &Bytes<'_>) -> usize {
    match value {
        Bytes::Whole(bytes) => bytes.len(),
        Bytes::Chunks(chunks) => chunks.iter().map(bytes::Bytes::len).sum(),
    }
}
