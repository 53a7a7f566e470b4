//! A backup's stream of commands to its master, over the pair's own authenticated port.

use std::io;

use tandem_replication::proxy::{ProxyStream, Reply};

use crate::server::gate::{Answer, BoxFuture, Upstream};

/// One client's stream to the master.
pub struct PeerStream(pub ProxyStream);

impl Upstream for PeerStream {
    fn send<'a>(&'a mut self, requests: &'a [u8], durable: bool) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.0.send(requests, durable))
    }

    fn receive(&mut self) -> BoxFuture<'_, io::Result<Answer>> {
        Box::pin(async {
            Ok(match self.0.receive().await? {
                Reply::Part(bytes) => Answer::Part(bytes),
                Reply::Done(executed) => Answer::Done(executed),
            })
        })
    }
}
