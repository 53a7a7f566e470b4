//! Holes that other servers had, over a socket.
