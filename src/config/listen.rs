//! Addresses as flags write them: `host`, `host:port`, `[v6]:port`, a bare IPv6 address, `*`.

use std::fmt;
use std::net::Ipv6Addr;

use crate::protocol::Protocol;
use crate::server::{Listen, Security};

/// A host: a name or an address to be resolved, or every interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// All interfaces.
    Any,
    /// A name or an address.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A host and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Where.
    pub host: Host,
    /// Which; the flag's documentation says what holds without one.
    pub port: Option<u16>,
}

impl HostPort {
    /// Reads `host`, `host:port`, `[v6]:port`, a bare IPv6 address or `*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or("the address has no closing bracket")?;
            match rest {
                "" => (host, None),
                _ => (host, Some(rest.strip_prefix(':').ok_or("only `:port` may follow the bracket")?)),
            }
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => None,
            Some(port) => Some(
                port.parse::<u16>()
                    .map_err(|_| format!("`{port}` is no port; it takes a number from 0 to 65535"))?,
            ),
        };
        let host = match host {
            "" => return Err("the host is empty; `*` means every interface".to_owned()),
            "*" => Host::Any,
            name => Host::Name(name.to_owned()),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (host, None) => host.fmt(f),
            (Host::Name(name), Some(port)) if name.contains(':') => write!(f, "[{name}]:{port}"),
            (host, Some(port)) => write!(f, "{host}:{port}"),
        }
    }
}

/// Reads one element of `-l`, with memcached's prefixes.
pub(super) fn listen(element: &str) -> Result<Listen, String> {
    let mut rest = element;
    let (mut protocol, mut security) = (None, Security::Default);
    loop {
        if let Some(tail) = rest.strip_prefix("notls:") {
            (rest, security) = (tail, Security::Plain);
        } else if let Some(tail) = rest.strip_prefix("btls:") {
            (rest, security) = (tail, Security::Basic);
        } else if let Some(tail) = rest.strip_prefix("mtls:") {
            (rest, security) = (tail, Security::Mutual);
        } else if let Some(tail) = rest.strip_prefix("proto[") {
            let (name, tail) = tail
                .split_once("]:")
                .ok_or("write it as proto[ascii]:host, proto[binary]:host or proto[negotiating]:host")?;
            protocol = Some(match name {
                "ascii" => Protocol::Text,
                "binary" => Protocol::Binary,
                "negotiating" => Protocol::Auto,
                _ => return Err(format!("`{name}` is no protocol; it is one of ascii, binary, negotiating")),
            });
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("tag[") {
            let (tag, tail) = tail.split_once("]:").ok_or("write it as tag[name]:host")?;
            if tag.is_empty() || tag.len() > 8 {
                return Err(format!("the tag `{tag}` must have 1 to 8 characters"));
            }
            rest = tail;
        } else if let Some((_, tail)) = rest.strip_prefix("tag_").and_then(|tail| tail.split_once("_:")) {
            rest = tail;
        } else {
            break;
        }
    }
    let HostPort { host, port } = HostPort::parse(rest)?;
    let host = match host {
        Host::Any => None,
        Host::Name(name) => Some(name),
    };
    Ok(Listen { host, port, protocol, security })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form_memcached_takes() {
        let read = |text: &str| listen(text).map(|l| (l.host.unwrap_or_else(|| "*".into()), l.port));
        assert_eq!(read("127.0.0.1"), Ok(("127.0.0.1".into(), None)));
        assert_eq!(read("localhost:11311"), Ok(("localhost".into(), Some(11311))));
        assert_eq!(read("[::1]:11311"), Ok(("::1".into(), Some(11311))));
        assert_eq!(read("[::1]"), Ok(("::1".into(), None)));
        assert_eq!(read("::1"), Ok(("::1".into(), None)));
        assert_eq!(read("*"), Ok(("*".into(), None)));
        assert_eq!(read("notls:proto[ascii]:tag[a]:127.0.0.1:1"), Ok(("127.0.0.1".into(), Some(1))));
        assert_eq!(read("tag_x_:127.0.0.1"), Ok(("127.0.0.1".into(), None)));
        let security = |text: &str| listen(text).map(|listen| listen.security);
        assert_eq!(security("host:1"), Ok(Security::Default));
        assert_eq!(security("notls:host:1"), Ok(Security::Plain));
        assert_eq!(security("btls:proto[binary]:host:1"), Ok(Security::Basic));
        assert_eq!(security("mtls:[::1]:1"), Ok(Security::Mutual));
        for bad in ["", ":11211", "host:70000", "host:x", "[::1", "proto[x]:host", "tag[123456789]:h"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }
}
