//! Sockets and connections.

pub mod gate;
