//! A pair that agrees on one master.
#![forbid(unsafe_code)]

pub mod change;
pub mod handshake;
pub mod proxy;
pub mod state;
pub mod transport;
