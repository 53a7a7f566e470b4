//! A pair that agrees on one master.
//!
//! Two nodes hold the same items. One is the master: it executes commands and streams their effects
//! ([`change`]) to the other, its backup. When the master dies the backup takes over; when the dead
//! node returns it becomes the backup. Nobody needs to be asked.
//!
//! Everything that decides is pure: no socket, no clock, no randomness. [`node::Node`] takes facts
//! (`handle_*`) and hands out what is to be done (`poll_*`), and the time is an argument
//! ([`time::Mono`]). So a whole pair runs in virtual time, thousands of times faster than real, and
//! one seed is one run (`testing`).
//!
//! In reading order:
//! * [`change`], [`frame`]: what travels. [`wire`]: how the rarely sent parts are serialised.
//! * [`store`]: what is replicated, seen from here. [`backlog`]: changes not yet everywhere.
//! * [`history`]: which changes a node has, so that it can continue instead of copying.
//! * [`session`]: one follower and its stream, on both ends.
//! * [`liveness`]: what may be concluded from silence. [`role`]: who is master, as one table.
//! * [`arbiter`]: whom to ask when the two cannot ask each other.
//! * [`node`]: all of it together. [`status`]: what others see of it.
//!
//! And where it meets the world, in sockets, timers and files:
//! * [`driver`]: performs what a node asks for, on a thread of its own.
//! * [`transport`], [`handshake`], [`keys`], [`guard`], [`channel`]: how the two find each other, who
//!   may speak, and what keeps others from it.
//! * [`state`]: what a node must not forget. [`proxy`]: clients' requests on their way to the master.
#![forbid(unsafe_code)]

pub mod arbiter;
pub mod backlog;
pub mod change;
pub mod channel;
pub mod dirty;
pub mod driver;
pub mod frame;
pub mod guard;
pub mod handshake;
pub mod heal;
pub mod history;
pub mod keys;
pub mod liveness;
pub mod node;
pub mod proxy;
pub mod role;
pub mod session;
pub mod state;
pub mod status;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod transport;
pub mod verify;
pub mod walk;
pub mod wire;
