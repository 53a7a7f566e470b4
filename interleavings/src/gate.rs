//! The pair's gate: behind a drained gate nothing is executed, what was deposed acknowledges nothing, and
//! whoever waits for it to open is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shuttle::thread;
use tandem_replication::node::GateView;
use tandem_replication::time::Mono;
use tandemd::server::gate::{Admission, Gate};

// At their place in the product the gate finds receipts next to it.
use crate::receipts;

product! { gate gate_flag_comes_late gate_looks_before_it_listens }

/// The pair's end of it.
trait Door: Gate {
    fn new(clock: Arc<dyn Fn() -> Mono + Send + Sync>) -> Self;
    fn set(&self, view: GateView);
    fn drained(&self) -> bool;
}

macro_rules! door {
    ($name:ident) => {
        impl Door for $name::PairGate {
            fn new(clock: Arc<dyn Fn() -> Mono + Send + Sync>) -> Self {
                let nowhere: $name::OpenUpstream =
                    Box::new(|| Box::pin(async { Err(std::io::Error::other("no upstream here")) }));
                Self::new(WORKERS, clock, $name::BackupRequests::Proxy, Duration::ZERO, nowhere)
            }
            fn set(&self, view: GateView) {
                self.set(view);
            }
            fn drained(&self) -> bool {
                self.drained()
            }
        }
    };
}
door!(gate);
door!(gate_flag_comes_late);
door!(gate_looks_before_it_listens);

const WORKERS: usize = 2;

/// What happened, not seen by the scheduler.
#[derive(Default)]
struct World {
    executed: AtomicU64,
    handed_over: AtomicBool,
    deposed: AtomicBool,
    time: AtomicU64,
}

fn open<D: Door>() -> (Arc<World>, Arc<D>) {
    let world = Arc::new(World::default());
    let clock = Arc::clone(&world);
    let gate = Arc::new(D::new(Arc::new(move || Mono(clock.time.load(Ordering::Relaxed)))));
    (world, gate)
}

/// Workers execute while the role goes to the other node: once every flag is down, nothing more.
fn hand_over<D: Door>() {
    let (world, gate) = open::<D>();
    gate.set(GateView::Serve { until: Mono(100) });
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (world, gate) = (Arc::clone(&world), Arc::clone(&gate));
            thread::spawn(move || {
                for _ in 0..2 {
                    if gate.enter(worker) == Admission::Serve {
                        thread::yield_now();
                        assert!(!world.handed_over.load(Ordering::Relaxed), "executed behind the handover");
                        world.executed.fetch_add(1, Ordering::Relaxed);
                        gate.leave(worker);
                    }
                }
            })
        })
        .collect();
    gate.set(GateView::Park);
    while !gate.drained() {
        thread::yield_now();
    }
    world.handed_over.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
    assert!(gate.drained() && world.executed.load(Ordering::Relaxed) <= 2 * WORKERS as u64);
}

/// The process is stopped, or told that it is no longer master, in the middle of batches.
fn depose<D: Door>() {
    let (world, gate) = open::<D>();
    gate.set(GateView::Serve { until: Mono(10) });
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (world, gate) = (Arc::clone(&world), Arc::clone(&gate));
            thread::spawn(move || {
                if gate.enter(worker) == Admission::Serve {
                    thread::yield_now();
                    let late = world.time.load(Ordering::Relaxed) >= 10;
                    let deposed = world.deposed.load(Ordering::Relaxed);
                    let acknowledged = gate.leave(worker);
                    assert!(!(acknowledged && (late || deposed)), "late: {late}, deposed: {deposed}");
                }
            })
        })
        .collect();
    gate.set(GateView::Park);
    thread::yield_now();
    if shuttle::rand::Rng::gen_bool(&mut shuttle::rand::thread_rng(), 0.5) {
        world.time.store(10, Ordering::Relaxed);
    } else {
        gate.set(GateView::Forward);
        world.deposed.store(true, Ordering::Relaxed);
    }
    workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
    assert!(gate.drained());
}

/// A parked request waits for the gate while it is opened.
fn wait<D: Door>() {
    let (_, gate) = open::<D>();
    let parked = Arc::clone(&gate);
    let request = thread::spawn(move || {
        shuttle::future::block_on(parked.changed());
        assert_eq!(parked.enter(0), Admission::Serve, "it was opened, and nobody closes it");
        assert!(parked.leave(0));
    });
    gate.set(GateView::Serve { until: Mono(100) });
    request.join().expect("a request");
}

#[test]
fn nothing_is_executed_behind_a_drained_gate() {
    crate::try_orders(hand_over::<gate::PairGate>);
    println!("{} orders of a handover", crate::try_one_by_one(hand_over::<gate::PairGate>));
}

#[test]
fn who_was_stopped_or_deposed_acknowledges_nothing() {
    crate::try_orders(depose::<gate::PairGate>);
}

#[test]
fn a_parked_request_never_misses_the_opening() {
    crate::try_orders(wait::<gate::PairGate>);
    println!("{} orders of a wait", crate::try_one_by_one(wait::<gate::PairGate>));
}

#[test]
fn gates_with_bugs_are_found() {
    crate::find_bug("a gate whose flag comes late", hand_over::<gate_flag_comes_late::PairGate>);
    crate::find_bug("a gate that looks before it listens", wait::<gate_looks_before_it_listens::PairGate>);
}
