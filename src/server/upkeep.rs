//! Background work of the engine, in slices, on a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::watch::{Crawled, kind};
use super::{Service, limits};

/// The thread; dropping stops it.
#[derive(Debug)]
pub(super) struct Upkeep {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(super) fn start(service: Arc<Service>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("tandem-upkeep".to_owned()).spawn(move || {
            let mut crawls = Crawls::default();
            while !stopped.load(Ordering::Acquire) {
                service.clock.refresh();
                let (now, serves) = (service.clock.now(), service.gate.serves());
                let more = service.engine.maintain(now, limits::UPKEEP_ITEMS, serves);
                crawls.tell(&service, now.secs);
                // With work left it goes on after a breath, in which waiting workers take the locks.
                std::thread::park_timeout(if more { Duration::from_micros(500) } else { limits::UPKEEP });
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// What the crawler did since somebody watches `sysevents`.
#[derive(Debug, Default)]
struct Crawls {
    /// When lines were last made, or the watch began.
    told_secs: Option<u32>,
    classes: BTreeMap<u8, Class>,
}

/// The crawler's work on a class, as far as it was told.
#[derive(Debug)]
struct Class {
    told_secs: u32,
    examined: u64,
    reclaimed: u64,
}

impl Crawls {
    /// Once a second a line for each class in which something was looked at.
    fn tell(&mut self, service: &Service, now_secs: u32) {
        if !service.watchers.wants(kind::SYSTEM) {
            *self = Self::default();
            return;
        }
        if self.told_secs.is_some_and(|told| now_secs <= told) {
            return;
        }
        let before = self.told_secs.replace(now_secs);
        for (number, class) in service.engine.stats().classes {
            let (examined, reclaimed) = (class.crawler_items_checked, class.crawler_reclaimed);
            let told = self.classes.entry(number).or_insert_with(|| match before {
                // A class that came since has been looked at since.
                Some(told_secs) => Class { told_secs, examined: 0, reclaimed: 0 },
                None => Class { told_secs: now_secs, examined, reclaimed },
            });
            if examined > told.examined {
                service.watchers.crawled(&Crawled {
                    class: number,
                    since_secs: now_secs - told.told_secs,
                    elapsed_secs: now_secs - before.unwrap_or(now_secs),
                    examined: examined - told.examined,
                    reclaimed: reclaimed - told.reclaimed,
                });
                *told = Class { told_secs: now_secs, examined, reclaimed };
            }
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _panicked = thread.join();
        }
    }
}
