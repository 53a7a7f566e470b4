//! Background work of the engine, in slices, on a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

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
            while !stopped.load(Ordering::Acquire) {
                service.clock.refresh();
                let (now, serves) = (service.clock.now(), service.gate.serves());
                let more = service.engine.maintain(now, limits::UPKEEP_ITEMS, serves);
                // With work left it goes on after a breath, in which waiting workers take the locks.
                std::thread::park_timeout(if more { Duration::from_micros(500) } else { limits::UPKEEP });
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
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
