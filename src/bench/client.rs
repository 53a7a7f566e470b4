//! A small blocking client for the text protocol: for tests, the demo and scripts.
//!
//! One connection, one request at a time, or raw bytes for those who want to pipeline. It hides
//! nothing: what the server refuses is an error with the server's words.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum Error {
    /// The connection broke or took too long; whether the request was executed is unknown.
    Io(io::Error),
    /// The server's refusal, or an answer that does not fit the request.
    Server(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Server(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The answer to a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Client {
    /// A line longer than this is no answer.
    const LINE_MAX: u64 = 64 << 10;

    /// Connects; `limit` also bounds every later wait for an answer.
    pub fn connect(address: impl ToSocketAddrs, limit: Duration) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(limit))?;
                    stream.set_write_timeout(Some(limit))?;
                    return Ok(Self { stream: BufReader::new(stream) });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// A second handle to the socket, to send from one thread and read in another.
    pub fn sender(&self) -> io::Result<TcpStream> {
        self.stream.get_ref().try_clone()
    }

    /// The next line of the answer, without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(Self::LINE_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text"))
    }

    /// Exactly that many bytes of the answer.
    pub fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends one line and reads one.
    pub fn ask(&mut self, request: &str) -> Result<String> {
        self.send(format!("{request}\r\n").as_bytes())?;
        Ok(self.line()?)
    }

    /// Stores a value that never expires.
    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.send(&set_request(key, value, false))?;
        self.expect("STORED")
    }

    /// The value of a key, if it is there.
    pub fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.get_many(&[key])?.remove(key))
    }

    /// The values of those keys that are there.
    pub fn get_many(&mut self, keys: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
        self.send(format!("get {}\r\n", keys.join(" ")).as_bytes())?;
        let mut found = BTreeMap::new();
        loop {
            let line = self.line()?;
            if line == "END" {
                return Ok(found);
            }
            let words: Vec<&str> = line.split(' ').collect();
            let ["VALUE", key, _flags, len] = words[..] else { return Err(Error::Server(line)) };
            let len: usize = len.parse().map_err(|_| Error::Server(line.clone()))?;
            let value = self.bytes(len)?;
            self.bytes(2)?;
            found.insert(key.to_owned(), value);
        }
    }

    /// Removes a key; whether it was there.
    pub fn delete(&mut self, key: &str) -> Result<bool> {
        match self.ask(&format!("delete {key}"))?.as_str() {
            "DELETED" => Ok(true),
            "NOT_FOUND" => Ok(false),
            other => Err(Error::Server(other.to_owned())),
        }
    }

    /// Adds to a number; `None` if the key is missing.
    pub fn incr(&mut self, key: &str, delta: u64) -> Result<Option<u64>> {
        let answer = self.ask(&format!("incr {key} {delta}"))?;
        if answer == "NOT_FOUND" {
            return Ok(None);
        }
        answer.trim_end().parse().map(Some).map_err(|_| Error::Server(answer))
    }

    /// Empties the server.
    pub fn flush_all(&mut self) -> Result<()> {
        self.send(b"flush_all\r\n")?;
        self.expect("OK")
    }

    /// The server's version.
    pub fn version(&mut self) -> Result<String> {
        let answer = self.ask("version")?;
        answer.strip_prefix("VERSION ").map(str::to_owned).ok_or(Error::Server(answer))
    }

    /// `stats`, or `stats <what>`.
    pub fn stats(&mut self, what: &str) -> Result<BTreeMap<String, String>> {
        self.send(format!("stats {what}").trim_end().as_bytes())?;
        self.send(b"\r\n")?;
        let mut stats = BTreeMap::new();
        loop {
            let line = self.line()?;
            if line == "END" {
                return Ok(stats);
            }
            let Some((name, value)) = line.strip_prefix("STAT ").and_then(|stat| stat.split_once(' ')) else {
                return Err(Error::Server(line));
            };
            stats.insert(name.to_owned(), value.to_owned());
        }
    }

    fn expect(&mut self, answer: &str) -> Result<()> {
        let line = self.line()?;
        if line == answer { Ok(()) } else { Err(Error::Server(line)) }
    }
}

/// The bytes of a `set`.
pub fn set_request(key: &str, value: &[u8], noreply: bool) -> Vec<u8> {
    let noreply = if noreply { " noreply" } else { "" };
    let mut request = format!("set {key} 0 0 {}{noreply}\r\n", value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}
