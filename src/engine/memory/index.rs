//! From a key's hash to its location: cache-line buckets in hash order that grow a step at a time.
//!
//! A bucket has twelve slots, each with one byte of the hash (so that other items are rarely looked
//! at) and a location. An item lives in its home bucket, in the next one, or in an overflow bucket
//! of its home, and is never displaced. Because buckets divide the range of positions in order, a
//! resize moves homes one by one from the first to the last: `moved` says how far it has come, and
//! every position has exactly one place to look, always.
//!
//! Each block of buckets carries its part of the *ghost*: fingerprints of keys that were evicted
//! lately, so that what comes back soon is kept longer.

use std::sync::Arc;

use parking_lot::Mutex;

use super::segment::Queue;
use crate::engine::budget::Budget;
use crate::engine::hash::{fingerprint, position, tag};
use crate::engine::prefetch::prefetch;

/// Slots of a bucket.
const LANES: usize = 12;
/// Fingerprints of a row of the ghost.
const ROW: usize = 24;
/// Buckets that share a row of the ghost: 6 fingerprints a bucket, about two for three items.
const BUCKETS_PER_ROW: usize = 4;
/// Overflow buckets that moving one home may need at most, beyond those it frees.
const OVERFLOW_PER_MOVE: usize = 8;
/// At which load the table shrinks.
const EMPTY_PERMILLE: usize = 300;
/// Bytes charged for a block beyond its own: its description and the allocator's.
const BLOCK_OVERHEAD: usize = 128;

/// The keys that locations belong to.
pub(super) trait Keys {
    /// The hash of the key of the item at that location.
    fn hash(&self, location: u32) -> u64;

    /// Hints that it will be asked for.
    fn prefetch(&self, location: u32);
}

/// One cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u8; LANES],
    /// Low byte: how many items of this home live in the next bucket. Above: the first overflow
    /// bucket, counted from 1.
    meta: u32,
    locations: [u32; LANES],
}

impl Bucket {
    /// The lanes whose tag is `tag`.
    #[inline(always)]
    fn lanes(&self, tag: u8) -> Lanes {
        let low: [u8; 8] = *self.tags.first_chunk().expect("twelve lanes");
        let high: [u8; 4] = *self.tags.last_chunk().expect("twelve lanes");
        let wanted = u64::from_le_bytes([tag; 8]);
        Lanes {
            marks: equal_bytes(u64::from_le_bytes(low), wanted),
            high: u64::from(u32::from_le_bytes(high)),
            wanted,
            first: 0,
        }
    }

    fn occupied(&self) -> impl Iterator<Item = usize> + '_ {
        (0..LANES).filter(|&lane| self.tags[lane] != 0)
    }

    fn lane_of(&self, tag: u8, location: u32) -> Option<usize> {
        self.lanes(tag).find(|&lane| self.locations[lane] == location)
    }

    fn put(&mut self, tag: u8, location: u32) -> bool {
        let Some(lane) = self.lanes(0).next() else { return false };
        self.tags[lane] = tag;
        self.locations[lane] = location;
        true
    }

    fn spill(&self) -> u32 {
        self.meta & 0xff
    }

    fn next(&self) -> u32 {
        self.meta >> 8
    }

    fn set_next(&mut self, next: u32) {
        self.meta = self.spill() | next << 8;
    }
}

/// The top bit of each byte in which both words agree, and no other bit.
#[inline(always)]
const fn equal_bytes(one: u64, other: u64) -> u64 {
    const LOW: u64 = u64::from_le_bytes([0x7f; 8]);
    let differ = one ^ other;
    // Exact, unlike the shorter formula: no borrow runs into the next byte.
    !(((differ & LOW) + LOW) | differ | LOW)
}

/// Lanes of a bucket, from the first: marks in the top bits of bytes.
struct Lanes {
    /// Of the lanes from `first` on.
    marks: u64,
    /// Tags of the last four lanes. Most searches end before.
    high: u64,
    wanted: u64,
    first: usize,
}

impl Iterator for Lanes {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.marks == 0 {
            if self.first > 0 {
                return None;
            }
            self.first = 8;
            self.marks = equal_bytes(self.high, self.wanted) & u64::from(u32::MAX);
            if self.marks == 0 {
                return None;
            }
        }
        let lane = self.marks.trailing_zeros() as usize / 8;
        self.marks &= self.marks - 1;
        Some(self.first + lane)
    }
}

/// Some consecutive buckets, and the ghost of their positions.
#[derive(Debug, Default)]
pub(super) struct Block {
    buckets: Box<[Bucket]>,
    ghost: Box<[[u16; ROW]]>,
}

/// Buckets in hash order; of `homes` buckets, plus one for the last one's neighbour.
#[derive(Debug)]
struct Table {
    blocks: Vec<Block>,
    homes: usize,
    block_buckets: usize,
    /// log2 of that,
    shift: u32,
    /// and that less one: a bucket's place in its block.
    mask: usize,
}

impl Table {
    /// A table of that many blocks, none of which has memory yet.
    fn new(blocks: usize, block_buckets: usize) -> Self {
        let (homes, shift) = (blocks * block_buckets - 1, block_buckets.trailing_zeros());
        Self { blocks: Vec::with_capacity(blocks), homes, block_buckets, shift, mask: block_buckets - 1 }
    }

    fn blocks_at_full_size(&self) -> usize {
        (self.homes + 1) / self.block_buckets
    }

    #[inline]
    fn home(&self, position: u32) -> usize {
        ((u64::from(position) * self.homes as u64) >> 32) as usize
    }

    /// The first position of a home.
    fn start(&self, home: usize) -> u64 {
        ((home as u64) << 32).div_ceil(self.homes as u64)
    }

    #[inline]
    fn bucket(&self, at: usize) -> &Bucket {
        &self.blocks[at >> self.shift].buckets[at & self.mask]
    }

    #[inline]
    fn bucket_mut(&mut self, at: usize) -> &mut Bucket {
        &mut self.blocks[at >> self.shift].buckets[at & self.mask]
    }

    fn ghost_row(&mut self, home: usize) -> &mut [u16; ROW] {
        let block = &mut self.blocks[home / self.block_buckets];
        &mut block.ghost[home % self.block_buckets / BUCKETS_PER_ROW]
    }
}

/// Blocks that no index uses now, for whichever needs one next. They stay paid for: the allocator could give their
/// memory to nothing as long as a segment, and the process would grow beyond the limit.
#[derive(Debug)]
pub(super) struct Blocks {
    budget: Arc<Budget>,
    block_buckets: usize,
    spare: Mutex<Vec<Block>>,
}

impl Blocks {
    pub(super) const fn new(block_buckets: usize, budget: Arc<Budget>) -> Self {
        Self { budget, block_buckets, spare: Mutex::new(Vec::new()) }
    }

    /// A block, if there is memory for one. What is in it is left over from others.
    fn take(&self) -> Option<Block> {
        let spare = self.spare.lock().pop();
        spare.or_else(|| {
            let paid = self.budget.acquire(Index::block_cost(self.block_buckets));
            paid.then(|| new_block(self.block_buckets))
        })
    }

    fn keep(&self, block: Block) {
        self.spare.lock().push(block);
    }

    /// A table has grown, which leaves two blocks over: too few for the allocator's holes to matter.
    fn ease(&self) {
        let mut spare = self.spare.lock();
        let left = spare.len().saturating_sub(2);
        let freed = spare.split_off(left);
        self.budget.release(freed.len() as u64 * Index::block_cost(self.block_buckets));
    }

    /// Frees one: what it cost pays for one that was made without asking.
    pub(super) fn drop_one(&self) {
        self.spare.lock().pop().expect("an index has a block");
    }

    /// Frees them all: the limit was lowered.
    pub(super) fn free(&self) {
        let spare = std::mem::take(&mut *self.spare.lock());
        self.budget.release(spare.len() as u64 * Index::block_cost(self.block_buckets));
    }

    /// What they cost the budget.
    pub(super) fn bytes(&self) -> u64 {
        self.spare.lock().len() as u64 * Index::block_cost(self.block_buckets)
    }
}

/// A resize under way.
#[derive(Debug)]
struct Resize {
    old: Table,
    /// Homes of `old` below this have moved.
    moved: usize,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Index {
    table: Table,
    resize: Option<Resize>,
    overflow: Vec<Box<[Bucket]>>,
    overflow_free: Vec<u32>,
    len: usize,
    /// At which load it grows.
    full_permille: usize,
    /// With that many items it is to be resized.
    resize_above: usize,
    resize_below: usize,
}

/// Which table a position is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Current,
    Old,
}

/// Where the bucket of a hash was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    side: Side,
    home: u32,
}

impl Index {
    /// What a block costs the budget.
    pub(super) fn block_cost(block_buckets: usize) -> u64 {
        (block_buckets * size_of::<Bucket>() + BLOCK_OVERHEAD) as u64 + Self::ghost_bytes(block_buckets)
    }

    /// The ghost's part of that.
    pub(super) fn ghost_bytes(block_buckets: usize) -> u64 {
        (block_buckets / BUCKETS_PER_ROW * ROW * 2) as u64
    }

    /// An empty index of one block, whose cost has been taken from the budget.
    pub(super) fn new(block_buckets: usize, full_permille: usize) -> Self {
        let mut table = Table::new(1, block_buckets);
        table.blocks.push(new_block(block_buckets));
        let mut index = Self {
            table,
            resize: None,
            overflow: Vec::new(),
            overflow_free: Vec::new(),
            len: 0,
            full_permille,
            resize_above: 0,
            resize_below: 0,
        };
        index.set_bounds();
        index
    }

    fn set_bounds(&mut self) {
        let one_block = self.table.blocks_at_full_size() == 1;
        self.resize_above = self.slots() * self.full_permille / 1000;
        self.resize_below = if one_block { 0 } else { self.slots() * EMPTY_PERMILLE / 1000 };
    }

    /// Whether there is anything to do for [`Index::wanted_blocks`], [`Index::step`] or
    /// [`Index::add_spare`].
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.resize.is_none()
            && (self.resize_below..=self.resize_above).contains(&self.len)
            && self.has_spare()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn block_buckets(&self) -> usize {
        self.table.block_buckets
    }

    /// How many blocks have memory; each costs [`Index::block_cost`].
    pub(super) fn blocks(&self) -> usize {
        let old = self.resize.as_ref().map_or(0, |resize| resize.old.blocks.len() - resize.freed());
        self.table.blocks.len() + old + self.overflow.len()
    }

    pub(super) fn slots(&self) -> usize {
        self.table.homes * LANES
    }

    pub(super) fn is_resizing(&self) -> bool {
        self.resize.is_some()
    }

    #[inline]
    fn locate(&self, position: u32) -> (Side, usize) {
        if let Some(resize) = &self.resize {
            let home = resize.old.home(position);
            if home >= resize.moved {
                return (Side::Old, home);
            }
        }
        (Side::Current, self.table.home(position))
    }

    /// The home of a hash, and the table it is in.
    #[inline]
    fn home(&self, hash: u64) -> (&Table, usize) {
        let position = position(hash);
        if let Some(resize) = &self.resize {
            let home = resize.old.home(position);
            if home >= resize.moved {
                return (&resize.old, home);
            }
        }
        (&self.table, self.table.home(position))
    }

    #[inline]
    fn side(&self, side: Side) -> &Table {
        match (side, &self.resize) {
            (Side::Old, Some(resize)) => &resize.old,
            _ => &self.table,
        }
    }

    #[inline]
    fn side_mut(&mut self, side: Side) -> &mut Table {
        match (side, &mut self.resize) {
            (Side::Old, Some(resize)) => &mut resize.old,
            _ => &mut self.table,
        }
    }

    fn overflow_bucket(&self, id: u32) -> &Bucket {
        let at = id as usize - 1;
        &self.overflow[at / self.block_buckets()][at % self.block_buckets()]
    }

    fn overflow_bucket_mut(&mut self, id: u32) -> &mut Bucket {
        let (at, size) = (id as usize - 1, self.block_buckets());
        &mut self.overflow[at / size][at % size]
    }

    /// The location with this hash for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (table, home) = self.home(hash);
        let (bucket, tag) = (table.bucket(home), tag(hash));
        for lane in bucket.lanes(tag) {
            if is_it(bucket.locations[lane]) {
                return Some(bucket.locations[lane]);
            }
        }
        if bucket.meta == 0 { None } else { self.find_further(table, home, tag, &mut is_it) }
    }

    /// Looks where items go that their home bucket had no lane for.
    #[inline(never)]
    fn find_further(
        &self,
        table: &Table,
        home: usize,
        tag: u8,
        is_it: &mut dyn FnMut(u32) -> bool,
    ) -> Option<u32> {
        let mut look = |bucket: &Bucket| {
            bucket.lanes(tag).map(|lane| bucket.locations[lane]).find(|&location| is_it(location))
        };
        let bucket = table.bucket(home);
        if bucket.spill() > 0
            && let Some(found) = look(table.bucket(home + 1))
        {
            return Some(found);
        }
        let mut next = bucket.next();
        while next != 0 {
            let bucket = self.overflow_bucket(next);
            if let Some(found) = look(bucket) {
                return Some(found);
            }
            next = bucket.next();
        }
        None
    }

    /// Hints that the bucket of this hash will be needed, and answers where that is.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) -> Spot {
        let (side, home) = self.locate(position(hash));
        prefetch(self.side(side).bucket(home));
        Spot { side, home: home as u32 }
    }

    /// The first location with the tag of this hash, whichever key it belongs to.
    #[inline(always)]
    pub(super) fn first(&self, hash: u64) -> Option<u32> {
        let (table, home) = self.home(hash);
        self.first_in(table, home, table.bucket(home), tag(hash))
    }

    /// As [`Index::first`]. If buckets have moved since the spot was asked for, it answers anything.
    #[inline(always)]
    pub(super) fn first_at(&self, Spot { side, home }: Spot, hash: u64) -> Option<u32> {
        let (table, home) = (self.side(side), home as usize);
        let block = table.blocks.get(home >> table.shift)?;
        let bucket = block.buckets.get(home & table.mask)?;
        self.first_in(table, home, bucket, tag(hash))
    }

    #[inline(always)]
    fn first_in(&self, table: &Table, home: usize, bucket: &Bucket, tag: u8) -> Option<u32> {
        match bucket.lanes(tag).next() {
            Some(lane) => Some(bucket.locations[lane]),
            None if bucket.meta == 0 => None,
            None => self.find_further(table, home, tag, &mut |_| true),
        }
    }

    /// Whether [`Index::insert`] and a step of a resize have the overflow buckets they may need.
    pub(super) fn has_spare(&self) -> bool {
        self.overflow_free.len() >= OVERFLOW_PER_MOVE
    }

    /// Adds a block of overflow buckets, whose cost has been taken from the budget.
    pub(super) fn add_spare(&mut self) {
        let first = self.overflow.len() * self.block_buckets() + 1;
        self.overflow.push(vec![Bucket::default(); self.block_buckets()].into());
        self.overflow_free.extend((first..first + self.block_buckets()).rev().map(|id| id as u32));
    }

    /// Whether [`Index::insert`] has an overflow bucket if it needs one.
    pub(super) fn can_insert(&self) -> bool {
        !self.overflow_free.is_empty()
    }

    /// Adds a location. There must be a spare overflow bucket.
    pub(super) fn insert(&mut self, hash: u64, location: u32) {
        self.len += 1;
        self.place(hash, location);
    }

    fn place(&mut self, hash: u64, location: u32) {
        let (side, home) = self.locate(position(hash));
        let tag = tag(hash);
        let table = self.side_mut(side);
        if table.bucket_mut(home).put(tag, location) {
            return;
        }
        if table.bucket_mut(home + 1).put(tag, location) {
            table.bucket_mut(home).meta += 1;
            return;
        }
        let first = table.bucket(home).next();
        let mut next = first;
        while next != 0 {
            if self.overflow_bucket_mut(next).put(tag, location) {
                return;
            }
            next = self.overflow_bucket(next).next();
        }
        let id = self.overflow_free.pop().expect("a spare overflow bucket was ensured");
        let bucket = self.overflow_bucket_mut(id);
        *bucket = Bucket::default();
        bucket.put(tag, location);
        bucket.set_next(first);
        self.side_mut(side).bucket_mut(home).set_next(id);
    }

    /// Points a location's slot to another one.
    pub(super) fn replace(&mut self, hash: u64, from: u32, to: u32) {
        let (side, home) = self.locate(position(hash));
        let tag = tag(hash);
        let table = self.side_mut(side);
        let spill = table.bucket(home).spill();
        for at in home..home + 1 + usize::from(spill > 0) {
            let bucket = table.bucket_mut(at);
            if let Some(lane) = bucket.lane_of(tag, from) {
                bucket.locations[lane] = to;
                return;
            }
        }
        let mut next = table.bucket(home).next();
        while next != 0 {
            let bucket = self.overflow_bucket_mut(next);
            if let Some(lane) = bucket.lane_of(tag, from) {
                bucket.locations[lane] = to;
                return;
            }
            next = bucket.next();
        }
        unreachable!("a live item is in the index");
    }

    /// Forgets a location.
    pub(super) fn remove(&mut self, hash: u64, location: u32) {
        self.len -= 1;
        let (side, home) = self.locate(position(hash));
        let tag = tag(hash);
        let table = self.side_mut(side);
        let bucket = table.bucket_mut(home);
        if let Some(lane) = bucket.lane_of(tag, location) {
            bucket.tags[lane] = 0;
            return;
        }
        let (spill, mut next) = (bucket.spill(), bucket.next());
        if spill > 0 {
            let bucket = table.bucket_mut(home + 1);
            if let Some(lane) = bucket.lane_of(tag, location) {
                bucket.tags[lane] = 0;
                table.bucket_mut(home).meta -= 1;
                return;
            }
        }
        let mut before = 0;
        while next != 0 {
            let bucket = self.overflow_bucket_mut(next);
            let after = bucket.next();
            if let Some(lane) = bucket.lane_of(tag, location) {
                bucket.tags[lane] = 0;
                if bucket.tags == [0; LANES] {
                    self.overflow_free.push(next);
                    if before == 0 {
                        self.side_mut(side).bucket_mut(home).set_next(after);
                    } else {
                        self.overflow_bucket_mut(before).set_next(after);
                    }
                }
                return;
            }
            (before, next) = (next, after);
        }
        unreachable!("a live item is in the index");
    }

    /// Remembers that the key of this hash was evicted, and from where.
    pub(super) fn remember(&mut self, hash: u64, from: Queue) {
        let (side, home) = self.locate(position(hash));
        let row = self.side_mut(side).ghost_row(home);
        row.copy_within(0..ROW - 1, 1);
        row[0] = print_of(hash, from);
    }

    /// From where the key of this hash was evicted lately, if it was; forgets it.
    pub(super) fn recall(&mut self, hash: u64) -> Option<Queue> {
        let (side, home) = self.locate(position(hash));
        let row = self.side_mut(side).ghost_row(home);
        [Queue::Small, Queue::Main].into_iter().find(|&from| {
            let found = row.iter_mut().find(|entry| **entry == print_of(hash, from));
            found.map(|entry| *entry = 0).is_some()
        })
    }

    /// The number of blocks the table should have, if that is not what it has or is getting.
    pub(super) fn wanted_blocks(&self) -> Option<usize> {
        let blocks = self.table.blocks_at_full_size();
        if self.is_resizing() {
            None
        } else if self.len > self.resize_above {
            Some((blocks * 5 / 4).max(blocks + 1))
        } else if self.len < self.resize_below {
            Some((blocks * 2 / 3).max(1))
        } else {
            None
        }
    }

    /// Starts a resize to that many blocks. Nothing moves yet.
    pub(super) fn start_resize(&mut self, blocks: usize) {
        let table = Table::new(blocks, self.block_buckets());
        self.resize = Some(Resize { old: std::mem::replace(&mut self.table, table), moved: 0 });
        self.set_bounds();
    }

    /// Moves one home. Takes blocks from `blocks`; `false` if there is nothing to move, or a block could not be had.
    /// Spare overflow buckets must be there.
    pub(super) fn step(&mut self, blocks: &Blocks, keys: &impl Keys) -> bool {
        let Some(resize) = &self.resize else { return false };
        let (from, old_homes) = (resize.moved, resize.old.homes);
        let last = self.table.home((resize.old.start(from + 1) - 1) as u32) + 1;
        while self.table.blocks.len() <= last / self.block_buckets() {
            let Some(block) = blocks.take() else { return false };
            self.add_block(block);
        }
        self.move_home(from, keys);
        let size = self.block_buckets();
        if (from + 1).is_multiple_of(size) {
            self.give_back(from / size, blocks);
        }
        if from + 1 == old_homes {
            // The block of the last home and of its neighbour.
            self.give_back(from / size, blocks);
            if self.table.homes > old_homes {
                blocks.ease();
            }
            self.resize = None;
        }
        true
    }

    /// A block of the old table is empty.
    fn give_back(&mut self, at: usize, blocks: &Blocks) {
        if let Some(resize) = &mut self.resize {
            blocks.keep(std::mem::take(&mut resize.old.blocks[at]));
        }
    }

    /// Adds the next block of the growing table, with the ghost of its positions.
    fn add_block(&mut self, mut block: Block) {
        block.buckets.fill(Bucket::default());
        block.ghost.fill([0; ROW]);
        if let Some(resize) = &mut self.resize {
            let first = self.table.blocks.len() * self.table.block_buckets;
            for (row, ghost) in block.ghost.iter_mut().enumerate() {
                let home = (first + row * BUCKETS_PER_ROW).min(self.table.homes - 1);
                let home = resize.old.home(self.table.start(home) as u32);
                *ghost = *resize.old.ghost_row(home.max(resize.moved));
            }
        }
        self.table.blocks.push(block);
    }

    /// The blocks of an index that is not needed any more.
    pub(super) fn give_all(self, blocks: &Blocks) {
        let tables = [Some(self.table), self.resize.map(|resize| resize.old)];
        let all = tables.into_iter().flatten().flat_map(|table| table.blocks);
        all.filter(|block| !block.buckets.is_empty()).for_each(|block| blocks.keep(block));
        // Overflow buckets have no ghost, and cost as much: few.
        self.overflow.into_iter().for_each(|buckets| {
            let ghost = vec![[0; ROW]; blocks.block_buckets / BUCKETS_PER_ROW].into();
            blocks.keep(Block { buckets, ghost });
        });
    }

    fn move_home(&mut self, home: usize, keys: &impl Keys) {
        let resize = self.resize.as_mut().expect("a resize is under way");
        let mut found = [0; 2 * LANES];
        let mut count = 0;
        let bucket = resize.old.bucket_mut(home);
        for lane in bucket.occupied() {
            found[count] = bucket.locations[lane];
            count += 1;
        }
        let (mut spill, mut next) = (bucket.spill(), bucket.next());
        *bucket = Bucket::default();
        if spill > 0 {
            let old_home = |hash| resize.old.home(position(hash));
            let mut neighbour = *resize.old.bucket(home + 1);
            for lane in 0..LANES {
                if spill > 0
                    && neighbour.tags[lane] != 0
                    && old_home(keys.hash(neighbour.locations[lane])) == home
                {
                    found[count] = neighbour.locations[lane];
                    count += 1;
                    spill -= 1;
                    neighbour.tags[lane] = 0;
                }
            }
            *resize.old.bucket_mut(home + 1) = neighbour;
        }
        resize.moved = home + 1;
        // The next step's items are fetched while this one's are placed.
        let ahead = resize.old.bucket(home + 1);
        for lane in ahead.occupied() {
            keys.prefetch(ahead.locations[lane]);
        }
        for &location in &found[..count] {
            self.place(keys.hash(location), location);
        }
        while next != 0 {
            let bucket = *self.overflow_bucket(next);
            self.overflow_free.push(next);
            for lane in bucket.occupied() {
                self.place(keys.hash(bucket.locations[lane]), bucket.locations[lane]);
            }
            next = bucket.next();
        }
    }

    /// Visits every location whose home covers `position` and answers the position after that home.
    pub(super) fn visit_home(&self, position: u32, mut visit: impl FnMut(u32)) -> u64 {
        let (side, home) = self.locate(position);
        let table = self.side(side);
        let bucket = table.bucket(home);
        let mut each = |bucket: &Bucket| {
            for lane in bucket.occupied() {
                visit(bucket.locations[lane]);
            }
        };
        each(bucket);
        if bucket.spill() > 0 {
            each(table.bucket(home + 1));
        }
        let mut next = bucket.next();
        while next != 0 {
            let bucket = self.overflow_bucket(next);
            each(bucket);
            next = bucket.next();
        }
        let end = table.start(home + 1);
        match (&self.resize, side) {
            (Some(resize), Side::Current) => end.min(resize.old.start(resize.moved)),
            _ => end,
        }
    }
}

impl Resize {
    /// Blocks of the old table that were given back.
    fn freed(&self) -> usize {
        self.moved / self.old.block_buckets
    }
}

/// A fingerprint whose last bit says where the item was evicted from.
fn print_of(hash: u64, from: Queue) -> u16 {
    fingerprint(hash) & !1 | from as u16
}

fn new_block(buckets: usize) -> Block {
    Block {
        buckets: vec![Bucket::default(); buckets].into(),
        ghost: vec![[0; ROW]; buckets / BUCKETS_PER_ROW].into(),
    }
}

#[cfg(test)]
impl Index {
    /// Panics unless exactly these locations are here, each where its hash belongs.
    pub(super) fn check(&self, expected: &std::collections::BTreeMap<u32, u64>) {
        assert_eq!(self.len, expected.len());
        let mut seen = std::collections::BTreeSet::new();
        let mut chained = std::collections::BTreeSet::new();
        let old = self.resize.as_ref().map(|resize| (&resize.old, resize.moved));
        let mut tables = vec![(&self.table, Side::Current)];
        tables.extend(old.map(|(old, _)| (old, Side::Old)));
        for (table, side) in tables {
            let mut spilled = std::collections::BTreeMap::<usize, u32>::new();
            for at in 0..table.blocks.len() * table.block_buckets {
                if table.blocks[at / table.block_buckets].buckets.is_empty() {
                    continue;
                }
                let bucket = table.bucket(at);
                let mut next = bucket.next();
                while next != 0 {
                    assert!(chained.insert(next), "an overflow bucket is in one chain");
                    let overflow = self.overflow_bucket(next);
                    assert!(overflow.occupied().next().is_some(), "an overflow bucket is not empty");
                    for lane in overflow.occupied() {
                        let location = overflow.locations[lane];
                        let hash = expected[&location];
                        assert_eq!(self.locate(position(hash)), (side, at));
                        assert_eq!(overflow.tags[lane], tag(hash));
                        assert!(seen.insert(location));
                    }
                    next = overflow.next();
                }
                for lane in bucket.occupied() {
                    let location = bucket.locations[lane];
                    let hash = expected[&location];
                    let (where_it_is, home) = self.locate(position(hash));
                    assert!(where_it_is == side && (home == at || home + 1 == at));
                    assert_eq!(bucket.tags[lane], tag(hash));
                    *spilled.entry(home).or_default() += u32::from(home != at);
                    assert!(seen.insert(location));
                }
            }
            for at in 0..table.homes.min(table.blocks.len() * table.block_buckets) {
                if !table.blocks[at / table.block_buckets].buckets.is_empty() {
                    let expected = spilled.get(&at).copied().unwrap_or(0);
                    assert_eq!(table.bucket(at).spill(), expected, "spilled items are counted");
                }
            }
        }
        assert_eq!(seen.len(), expected.len());
        let total = self.overflow.len() * self.block_buckets();
        assert_eq!(chained.len() + self.overflow_free.len(), total, "no overflow bucket is lost");
    }
}
