//! What dies by itself: a crawler that walks segments in order and removes expired and flushed items
//! that nobody asks for, so that their memory comes back.

use super::geometry::RESERVE;
use super::item::{Header, Marks};
use super::segment::Place;
use super::shard::Shard;
use crate::command::Now;

/// Where the crawler is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crawl {
    segment: usize,
    offset: usize,
    generation: u32,
    /// Lower bounds for the items seen in this segment.
    earliest: u32,
    oldest: u64,
}

impl Crawl {
    /// Keeps the bounds if that is the segment being crawled.
    #[inline]
    pub(super) fn see(&mut self, segment: usize, header: &Header) {
        if segment == self.segment {
            if header.deadline != 0 {
                self.earliest = self.earliest.min(header.deadline);
            }
            self.oldest = self.oldest.min(header.version);
        }
    }
}

impl Shard {
    /// Looks at about `items` items in segments that may have dead ones. Answers how many were looked
    /// at: 0 means that nothing here can be dead.
    pub(super) fn crawl(&mut self, items: usize, now: Now) -> usize {
        let mut looked = 0;
        while looked < items {
            if !self.resume_crawl(now) {
                break;
            }
            looked += self.crawl_segment(items - looked, now);
        }
        looked
    }

    /// Makes the cursor point into a segment that may have dead items; `false` if there is none.
    fn resume_crawl(&mut self, now: Now) -> bool {
        let count = self.segments.list.len();
        let in_progress = self.segments.list.get(self.crawl.segment).is_some_and(|segment| {
            self.crawl.offset > 0
                && segment.generation == self.crawl.generation
                && matches!(segment.place, Place::Queued | Place::Open)
        });
        if in_progress {
            return true;
        }
        for step in 0..count {
            let at = (self.crawl.segment + step) % count;
            let segment = &self.segments.list[at];
            let may = segment.earliest <= now.secs || segment.oldest < self.floor;
            if may && segment.live() > 0 && matches!(segment.place, Place::Queued | Place::Open) {
                self.crawl = Crawl {
                    segment: at,
                    offset: 0,
                    generation: segment.generation,
                    earliest: u32::MAX,
                    oldest: u64::MAX,
                };
                return true;
            }
        }
        false
    }

    fn crawl_segment(&mut self, items: usize, now: Now) -> usize {
        let at = self.crawl.segment;
        let mut looked = 0;
        while looked < items {
            let segment = &mut self.segments.list[at];
            if self.crawl.offset >= segment.used {
                segment.earliest = self.crawl.earliest;
                segment.oldest = self.crawl.oldest;
                self.crawl.segment = at + 1;
                self.crawl.offset = 0;
                self.release_if_dead(at);
                return looked.max(1);
            }
            let header = self.segments.header(at as u32, self.crawl.offset);
            let location = self.segments.location(at as u32, self.crawl.offset);
            self.crawl.offset += header.slot();
            looked += 1;
            if !header.marks.has(Marks::LIVE) {
                continue;
            }
            let (_, class) = self.measure(&self.item(location));
            self.counters.class(class).crawler_items_checked += 1;
            if self.is_dead(&header, now) {
                self.counters.class(class).crawler_reclaimed += 1;
                let hash = self.hash_at(location);
                self.reclaim(hash, location);
                continue;
            }
            self.crawl.see(at, &header);
        }
        looked
    }

    /// A queued segment without living items is free again; the shard keeps no more than its reserve.
    fn release_if_dead(&mut self, at: usize) {
        let segment = &self.segments.list[at];
        if segment.place == Place::Queued && segment.live() == 0 {
            self.segments.unqueue(at as u32);
            self.segments.recycle(at as u32);
            while self.segments.free.len() > RESERVE && self.give_segment_back() {}
        }
    }

    /// A slice of background work. Answers whether more is waiting.
    pub(super) fn maintain(&mut self, now: Now, items: usize) -> bool {
        self.secs = now.secs;
        self.tend_index(items.div_ceil(8));
        let crawled = self.crawl(items, now);
        crawled >= items || self.index.is_resizing()
    }
}
