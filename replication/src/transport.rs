//! Sockets of the pair: where to listen, whom to dial, how a connection is tuned and greeted.
//!
//! A peer's name is resolved again at every attempt and every address it has is tried, because the
//! address of a dead machine's successor is the one thing an operator changes at night. Dialling
//! never ends; the pauses in between grow from 50 ms to 1 s and are jittered, so that two nodes
//! restarted together do not knock in step.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use crate::channel::{Channel, SecureError};
use crate::guard::GuardError;
use crate::handshake::{Agreed, Handshake, HandshakeError, Side, read_verdict};
use crate::keys::Keys;

/// How long a connection may take to introduce itself.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(2);
/// Connections that the kernel keeps for us while we are busy.
const LISTEN_BACKLOG: i32 = 128;
/// How long names may take to resolve before the addresses known from last time are tried.
const RESOLVE_TIME: Duration = Duration::from_secs(2);
/// More addresses than that behind one name are not a node.
const ADDRESSES_MAX: usize = 8;

/// Where the other node is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// Its replication port.
    pub port: u16,
}

impl PeerAddress {
    /// Reads `HOST`, `HOST:PORT`, `[ADDRESS]:PORT` or a bare IPv6 address.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let wrong =
            |what: &str| format!("peer \"{text}\": {what}; write HOST, HOST:PORT or [IPV6-ADDRESS]:PORT");
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("the bracket is not closed"))?;
            host.parse::<Ipv6Addr>().map_err(|_| wrong("not an IPv6 address in the brackets"))?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(|| wrong("no colon after the bracket"))?),
            };
            (host, port)
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let is_name = !host.contains(|letter: char| letter.is_whitespace() || letter == ':');
        if host.is_empty() || !(is_name || host.parse::<Ipv6Addr>().is_ok()) {
            return Err(wrong("not a host"));
        }
        let port = match port {
            None => default_port,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(wrong("the port is not a number from 1 to 65535")),
                Ok(port) => port,
            },
        };
        Ok(Self { host: host.to_string(), port })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Binds the replication listener to every address, or says which one cannot be had and why.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<std::net::TcpListener>, String> {
    addresses
        .iter()
        .map(|address| {
            listen(*address).map_err(|why| {
                let remedy = match why.kind() {
                    io::ErrorKind::AddrInUse => "; stop what uses it or choose another --replication-port",
                    io::ErrorKind::AddrNotAvailable => "; it is not an address of this machine",
                    _ => "",
                };
                format!("cannot listen for the peer on {address}: {why}{remedy}")
            })
        })
        .collect()
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // An IPv4 wildcard may be in the list, too.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Small messages at once, and a silent end noticed by the kernel, too, not only by heartbeats.
pub fn tune(stream: &TcpStream, dead_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let idle = dead_after.max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(idle).with_retries(3))?;
    socket.set_tcp_user_timeout(Some(2 * idle))
}

/// Where to dial next, again and again.
#[derive(Debug)]
pub struct Resolver {
    peer: PeerAddress,
    /// What the name meant when it last resolved: better than nothing while name servers are down.
    known: Vec<SocketAddr>,
}

impl Resolver {
    /// For this peer.
    pub fn new(peer: PeerAddress) -> Self {
        Self { peer, known: Vec::new() }
    }

    /// The peer's addresses, now. An error names the peer and the reason.
    pub async fn resolve(&mut self) -> Result<Vec<SocketAddr>, String> {
        let failure =
            match timeout(RESOLVE_TIME, lookup_host((self.peer.host.as_str(), self.peer.port))).await {
                Ok(Ok(addresses)) => {
                    let addresses: Vec<_> = addresses.take(ADDRESSES_MAX).collect();
                    if !addresses.is_empty() {
                        self.known.clone_from(&addresses);
                        return Ok(addresses);
                    }
                    "it has no address".to_string()
                }
                Ok(Err(why)) => why.to_string(),
                Err(_) => "the name servers do not answer".to_string(),
            };
        match self.known.is_empty() {
            true => Err(format!(
                "peer {}: the name does not resolve ({failure}); check --peer and this machine's name servers",
                self.peer
            )),
            false => Ok(self.known.clone()),
        }
    }
}

/// Connects, from `source` if there is one and it can reach the peer.
pub async fn connect(peer: SocketAddr, source: Option<IpAddr>, patience: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    let source = source.filter(|source| {
        source.is_ipv4() == peer.is_ipv4() && source.is_loopback() == peer.ip().is_loopback()
    });
    let stream = match timeout_at(deadline, connect_from(peer, source)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) if source.is_some() && why.kind() != io::ErrorKind::ConnectionRefused => {
            timeout_at(deadline, connect_from(peer, None)).await.map_err(|_| timed_out())??
        }
        Ok(Err(why)) => return Err(why),
        Err(_) => return Err(timed_out()),
    };
    // A port nobody listens on, picked by chance as our own: the kernel connects us to ourselves.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

async fn connect_from(peer: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(peer).await
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer")
}

/// Growing, jittered pauses between attempts.
#[derive(Debug)]
pub struct Backoff {
    attempts: u32,
    random: u64,
}

impl Backoff {
    const FIRST_MS: u64 = 50;
    const LONGEST_MS: u64 = 1000;

    /// The seed makes two nodes differ.
    pub fn new(seed: u64) -> Self {
        Self { attempts: 0, random: seed | 1 }
    }

    /// The pause before the next attempt; none before the first.
    pub fn pause(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts == 1 {
            return Duration::ZERO;
        }
        let full = (Self::FIRST_MS << (self.attempts - 2).min(10)).min(Self::LONGEST_MS);
        // xorshift64: the quality of this randomness does not matter, its difference does.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        Duration::from_millis(full / 2 + self.random % (full / 2 + 1))
    }

    /// The last attempt led to something: start over. At once if it `lasted`, with the shortest pause
    /// if not: what fails as soon as it succeeds must not be repeated without end.
    pub fn reset(&mut self, lasted: bool) {
        self.attempts = u32::from(!lasted);
    }
}

/// Thirty-two bytes nobody can foresee.
pub fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|why| io::Error::other(format!("no random bytes: {why}")))?;
    Ok(nonce)
}

/// Why a connection did not become a link.
#[derive(Debug)]
pub enum GreetError {
    /// The socket failed.
    Io(io::Error),
    /// The other side took too long; did it say anything at all?
    Silent(bool),
    /// It said something wrong, or sent us away.
    Handshake(HandshakeError),
    /// There is no TLS with it, or somebody meddles with the link.
    Guard(GuardError),
}

impl fmt::Display for GreetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(why) if why.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("closed the connection during the handshake: is it a tandem node?")
            }
            Self::Io(why) => write!(f, "{why}"),
            Self::Silent(true) => f.write_str("connected and said nothing for 2 s: is it a tandem node?"),
            Self::Silent(false) => f.write_str("did not finish the handshake within 2 s"),
            Self::Handshake(why) => write!(f, "{why}"),
            Self::Guard(why) => {
                write!(
                    f,
                    "{why}; do both nodes have --replication-tls-… files of one authority, each for the name that the other one expects (-x, --replication-tls-name)?"
                )
            }
        }
    }
}

impl From<GuardError> for GreetError {
    fn from(why: GuardError) -> Self {
        Self::Guard(why)
    }
}

impl From<SecureError> for GreetError {
    fn from(why: SecureError) -> Self {
        match why {
            SecureError::Io(why) => Self::Io(why),
            SecureError::Guard(why) => Self::Guard(why),
        }
    }
}

impl From<io::Error> for GreetError {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

impl From<HandshakeError> for GreetError {
    fn from(why: HandshakeError) -> Self {
        Self::Handshake(why)
    }
}

/// Performs a handshake up to both introductions, within [`HANDSHAKE_TIME`], under TLS if there are
/// certificates. From then on the channel is guarded.
pub async fn greet(
    channel: &mut Channel,
    side: Side,
    keys: &Keys,
    handshake: Handshake,
) -> Result<Agreed, GreetError> {
    let mut handshake = handshake;
    match timeout(HANDSHAKE_TIME, exchange(channel, side, keys, &mut handshake)).await {
        Ok(result) => result?,
        Err(_) => return Err(GreetError::Silent(handshake.heard_nothing())),
    }
    if keys.tls.is_none() {
        channel.guard_with(handshake.take_guard());
    }
    handshake.agreed().cloned().ok_or(GreetError::Handshake(HandshakeError::Malformed("it ended early")))
}

async fn exchange(
    channel: &mut Channel,
    side: Side,
    keys: &Keys,
    handshake: &mut Handshake,
) -> Result<(), GreetError> {
    if let Some(tls) = &keys.tls {
        let session = tls.session(side == Side::Dialler).map_err(GuardError::from)?;
        channel.secure(session).await.map_err(|why| match why {
            SecureError::Io(why)
                if matches!(why.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => io::Error::other(
                "closed the connection instead of agreeing on TLS: give both nodes --replication-tls-… files",
            )
            .into(),
            why => GreetError::from(why),
        })?;
    }
    let mut buffer = [0; crate::handshake::HELLO_BYTES_MAX];
    loop {
        channel.write_all(&handshake.take_output()).await?;
        channel.flush().await?;
        let wants = handshake.wants();
        if wants == 0 {
            return Ok(());
        }
        let read = channel.read(&mut buffer[..wants.min(crate::handshake::HELLO_BYTES_MAX)]).await;
        let read = read.map_err(unseal)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Err(why) = handshake.handle(&buffer[..read]) {
            // The reason, if there is one to tell; whether it arrives changes nothing.
            let _ = channel.write_all(&handshake.take_output()).await;
            let _ = channel.flush().await;
            return Err(why.into());
        }
    }
}

/// The dialler's last step: what the acceptor thinks of us.
pub async fn await_verdict(channel: &mut Channel) -> Result<(), GreetError> {
    let mut bytes = [0; 2];
    match timeout(HANDSHAKE_TIME, channel.read_exact(&mut bytes)).await {
        Ok(read) => read.map_err(unseal)?,
        Err(_) => return Err(GreetError::Silent(false)),
    };
    Ok(read_verdict(bytes)?)
}

/// What TLS said of bytes it did not like, not an error of the socket.
fn unseal(why: io::Error) -> GreetError {
    match why.downcast::<GuardError>() {
        Ok(why) => GreetError::Guard(why),
        Err(why) => GreetError::Io(why),
    }
}

/// What a port of the peer's machine does when knocked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// The machine says that nobody listens there.
    Refused,
    /// An application answered.
    Answered,
    /// Connected or not: no application spoke.
    Silent,
}

/// Asks the peer's client port for a sign of life: a meta no-op. Kernels accept connections for
/// processes that are stopped or dying; only bytes are proof of life.
pub async fn knock_client(address: SocketAddr, patience: Duration) -> Knock {
    let asked = async {
        let mut stream = connect_from(address, None).await?;
        stream.write_all(b"mn\r\n").await?;
        let mut answer = [0; 2];
        stream.read(&mut answer).await
    };
    match timeout(patience, asked).await {
        Ok(Ok(1..)) => Knock::Answered,
        Ok(Err(why)) if why.kind() == io::ErrorKind::ConnectionRefused => Knock::Refused,
        Ok(_) | Err(_) => Knock::Silent,
    }
}

/// Does anybody listen on the peer's replication port? An accepted connection proves nothing.
pub async fn knock_replication(address: SocketAddr, patience: Duration) -> Knock {
    match timeout(patience, connect_from(address, None)).await {
        Ok(Err(why)) if why.kind() == io::ErrorKind::ConnectionRefused => Knock::Refused,
        Ok(_) | Err(_) => Knock::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_written_as_people_write_them() {
        let read = |text| PeerAddress::parse(text, 11212).map(|peer| peer.to_string());
        for (text, meant) in [
            ("cache-b", "cache-b:11212"),
            ("cache-b:7", "cache-b:7"),
            ("127.0.0.3", "127.0.0.3:11212"),
            ("127.0.0.3:99", "127.0.0.3:99"),
            ("::1", "[::1]:11212"),
            ("[::1]", "[::1]:11212"),
            ("[fe80::1]:99", "[fe80::1]:99"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(meant));
        }
        for text in ["", ":", ":99", "a:b:c", "a:0", "a:65536", "a:", "[::1", "[::1]99", "[a]:9", "a b"] {
            let error = read(text).expect_err(text);
            assert!(error.contains(text) && error.contains("HOST"), "{error}");
        }
    }

    #[test]
    fn the_first_attempt_is_immediate_and_pauses_stay_bounded() {
        let mut backoff = Backoff::new(7);
        assert_eq!(backoff.pause(), Duration::ZERO);
        assert!(backoff.pause() <= Duration::from_millis(50));
        for _ in 0..100 {
            let pause = backoff.pause();
            assert!(pause >= Duration::from_millis(25) && pause <= Duration::from_secs(1), "{pause:?}");
        }
        assert!(backoff.pause() >= Duration::from_millis(500));
        backoff.reset(true);
        assert_eq!(backoff.pause(), Duration::ZERO);
        backoff.pause();
        backoff.reset(false);
        assert!((25..=50).contains(&backoff.pause().as_millis()));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).expect("a free port");
        let address = first[0].local_addr().expect("bound");
        let error = bind(&[address]).expect_err("taken");
        assert!(error.contains(&address.to_string()) && error.contains("--replication-port"), "{error}");
        let error = bind(&[SocketAddr::from(([192, 0, 2, 1], 0))]).expect_err("not ours");
        assert!(error.contains("not an address of this machine"), "{error}");
    }

    #[test]
    fn both_wildcards_share_a_port() {
        let first = bind(&[SocketAddr::from(([0, 0, 0, 0], 0))]).expect("a free port");
        let port = first[0].local_addr().expect("bound").port();
        // A machine without IPv6 cannot show this.
        if std::net::TcpListener::bind("[::1]:0").is_ok() {
            bind(&[SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))]).expect("V6ONLY");
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_named() {
        let peer = PeerAddress::parse("no-such-host.invalid", 11212).expect("well formed");
        let error = Resolver::new(peer).resolve().await.expect_err("reserved never to exist");
        assert!(error.contains("no-such-host.invalid") && error.contains("--peer"), "{error}");
    }

    #[tokio::test]
    async fn only_an_application_answer_is_proof_of_life() {
        let patience = Duration::from_millis(300);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        // The kernel connects; nobody is home.
        assert_eq!(knock_client(address, patience).await, Knock::Silent);
        assert_eq!(knock_replication(address, patience).await, Knock::Silent);
        drop(listener);
        assert_eq!(knock_client(address, patience).await, Knock::Refused);
        assert_eq!(knock_replication(address, patience).await, Knock::Refused);

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a knock");
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.expect("a request");
            assert_eq!(&bytes, b"mn\r\n");
            stream.write_all(b"MN\r\n").await.expect("still there");
        };
        let (answer, ()) = tokio::join!(knock_client(address, Duration::from_secs(9)), server);
        assert_eq!(answer, Knock::Answered);
    }
}
