//! A TCP proxy that misbehaves on command: what netem does on kernels that have it, and more.
//!
//! It sits between two nodes and passes bytes on until told otherwise, per direction: late, not at
//! all, into nothing, in crumbs, or with a bit flipped. Connections can be reset or closed at any
//! moment, or on one side only, and new ones refused. Runs on a thread and a runtime of its own; dropping it ends both.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever dialled the proxy to the node behind it.
    Forth,
    /// Back.
    Back,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Everything arrives that much later, in order.
    pub delay: Duration,
    /// Nothing is passed on; the sender's window fills.
    pub stall: bool,
    /// Everything is read and thrown away.
    pub blackhole: bool,
    /// Bytes are written at most so many at a time, a pause after each.
    pub crumbs: Option<usize>,
    /// The byte that many bytes from now has a bit flipped, once.
    pub corrupt_after: Option<u64>,
}

struct Shared {
    faults: [watch::Sender<Faults>; 2],
    /// Counts resets; the value that a connection was born with must stay.
    cut: watch::Sender<(u64, Cut)>,
    refuse: watch::Sender<bool>,
    connections: AtomicU64,
    /// The number of the one that is a data connection, by its opening.
    data: AtomicU64,
    /// That connection swallows everything, its end, too; in one direction or both.
    swallows: watch::Sender<Option<Swallowing>>,
    target: Mutex<SocketAddr>,
}

/// Which connection, and which direction of it.
type Swallowing = (u64, Option<Direction>);

#[derive(Clone, Copy, Debug)]
enum Cut {
    Reset,
    Close,
    /// Only on the side of whoever dialled; the other learns nothing.
    HalfOpen,
}

/// The proxy.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free port of `ip` for connections to `target`.
    pub fn start(ip: &str, target: SocketAddr) -> Self {
        let listener = StdListener::bind((ip, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            faults: [watch::Sender::new(Faults::default()), watch::Sender::new(Faults::default())],
            cut: watch::Sender::new((0, Cut::Close)),
            refuse: watch::Sender::new(false),
            connections: AtomicU64::new(0),
            data: AtomicU64::new(u64::MAX),
            swallows: watch::Sender::new(None),
            target: Mutex::new(target),
        });
        let stop = watch::Sender::new(false);
        let (ours, mut stopped) = (shared.clone(), stop.subscribe());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = serve(listener, ours) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        });
        Self { address, shared, stop, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the node behind it is from now on.
    pub fn retarget(&self, target: SocketAddr) {
        *self.shared.target.lock().expect("not poisoned") = target;
    }

    /// From now on, this happens to the bytes of a direction.
    pub fn set(&self, direction: Direction, faults: Faults) {
        self.shared.faults[direction as usize].send_replace(faults);
    }

    /// From now on, this happens in both directions.
    pub fn set_both(&self, faults: &Faults) {
        self.set(Direction::Forth, faults.clone());
        self.set(Direction::Back, faults.clone());
    }

    /// Resets every connection, on both sides (`SO_LINGER` 0).
    pub fn reset(&self) {
        self.shared.cut.send_modify(|cut| *cut = (cut.0 + 1, Cut::Reset));
    }

    /// Closes every connection.
    pub fn close(&self) {
        self.shared.cut.send_modify(|cut| *cut = (cut.0 + 1, Cut::Close));
    }

    /// Closes every connection on the side that dialled; the node behind the proxy goes on believing in
    /// its own end, which says nothing any more.
    pub fn half_open(&self) {
        self.shared.cut.send_modify(|cut| *cut = (cut.0 + 1, Cut::HalfOpen));
    }

    /// New connections are reset at once, or served again.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.send_replace(refuse);
    }

    /// From now on, the latest data connection of a pair swallows everything, even that an end closed it.
    pub fn swallow_data(&self) {
        self.shared.swallows.send_replace(Some((self.shared.data.load(Ordering::Relaxed), None)));
    }

    /// The same in one direction only.
    pub fn swallow_data_of(&self, direction: Direction) {
        let number = self.shared.data.load(Ordering::Relaxed);
        self.shared.swallows.send_replace(Some((number, Some(direction))));
    }

    /// Connections passed on so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        if *shared.refuse.borrow() {
            reset(&stream);
            continue;
        }
        tokio::spawn(pass(stream, shared.clone()));
    }
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn pass(near: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    let target = *shared.target.lock().expect("not poisoned");
    let Ok(far) = TcpStream::connect(target).await else {
        return reset(&near);
    };
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    tokio::select! {
        () = one_way(&near, &far, &shared, (Direction::Forth, number)) => {}
        () = one_way(&far, &near, &shared, (Direction::Back, number)) => {}
        _ = cut.changed() => {
            let how = cut.borrow().1;
            match how {
                Cut::Reset => {
                    reset(&near);
                    reset(&far);
                }
                Cut::Close => {}
                Cut::HalfOpen => {
                    drop(near);
                    swallow(&far).await;
                }
            }
        }
    }
}

/// Where an opening says what its connection is for, and what a data connection's says; see `handshake::Kind`.
const KIND_AT: usize = 20;
const DATA: u8 = 2;

/// Reads until the other side gives up.
async fn swallow(from: &TcpStream) {
    let mut buffer = [0; 16 << 10];
    while from.readable().await.is_ok() {
        match from.try_read(&mut buffer) {
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream, shared: &Shared, which: (Direction, u64)) {
    let (sender, receiver) = mpsc::channel(64);
    let faults = &shared.faults[which.0 as usize];
    tokio::join!(read(from, sender, shared, which), write(to, receiver, faults));
}

async fn read(
    from: &TcpStream,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    shared: &Shared,
    (direction, number): (Direction, u64),
) {
    let mut faults = shared.faults[direction as usize].subscribe();
    let mut swallows = shared.swallows.subscribe();
    let is_swallowed = |swallows: &Option<Swallowing>| {
        swallows.is_some_and(|(which, way)| which == number && way.is_none_or(|way| way == direction))
    };
    let (mut buffer, mut begins) = ([0; 16 << 10], matches!(direction, Direction::Forth));
    loop {
        if faults.wait_for(|faults| !faults.stall).await.is_err() || from.readable().await.is_err() {
            return;
        }
        match from.try_read(&mut buffer) {
            Ok(_) | Err(_) if is_swallowed(&swallows.borrow()) => {
                // It is over for this connection, and nobody is to learn it.
                let _ = swallows.wait_for(|swallows| !is_swallowed(swallows)).await;
            }
            Ok(0) => return,
            Ok(read) => {
                if std::mem::take(&mut begins) && buffer[..read].get(KIND_AT) == Some(&DATA) {
                    shared.data.store(number, Ordering::Relaxed);
                }
                let (blackhole, due) = {
                    let faults = faults.borrow();
                    (faults.blackhole, Instant::now() + faults.delay)
                };
                if !blackhole && sender.send((due, buffer[..read].to_vec())).await.is_err() {
                    return;
                }
            }
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

async fn write(
    to: &TcpStream,
    mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
    faults: &watch::Sender<Faults>,
) {
    let mut watched = faults.subscribe();
    while let Some((due, mut bytes)) = receiver.recv().await {
        sleep_until(due).await;
        if watched.wait_for(|faults| !faults.stall).await.is_err() {
            return;
        }
        corrupt(&mut bytes, faults);
        let crumbs = watched.borrow().crumbs;
        for crumb in bytes.chunks(crumbs.unwrap_or(usize::MAX)) {
            if write_all(to, crumb).await.is_err() {
                return;
            }
            if crumbs.is_some() {
                sleep(Duration::from_micros(50)).await;
            }
        }
    }
}

fn corrupt(bytes: &mut [u8], faults: &watch::Sender<Faults>) {
    faults.send_if_modified(|faults| {
        let Some(after) = faults.corrupt_after else { return false };
        match usize::try_from(after).ok().and_then(|at| bytes.get_mut(at)) {
            Some(byte) => {
                *byte ^= 0x10;
                faults.corrupt_after = None;
            }
            None => faults.corrupt_after = Some(after - bytes.len() as u64),
        }
        false
    });
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
