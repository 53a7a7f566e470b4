//! What concerns clients: addresses, protocols, authentication, TLS.

use std::path::PathBuf;

use super::Reader;
use crate::config::{EXIT_SYSTEM, EXIT_USAGE, Extended, listen};
use crate::protocol::Protocol;
use crate::server::{self, Io, Listen, Port, Security, TlsConfig, UnixListen, Verify};

impl Reader<'_> {
    pub(super) fn server(&mut self, extended: &Extended) -> server::Config {
        let unix = self.text("unix-socket").map(|path| {
            let mask = self.text("unix-mask").unwrap_or_else(|| "700".to_owned());
            let mask =
                u32::from_str_radix(&mask, 8).ok().filter(|mask| *mask <= 0o777).unwrap_or_else(|| {
                    self.problem(
                        EXIT_USAGE,
                        format!("-a {mask}: the access mask takes an octal number from 0 to 777"),
                    );
                    0o700
                });
            UnixListen { path: PathBuf::from(path), mask }
        });
        let sasl = self.flag("enable-sasl");
        let auth_file = self.text("auth-file").map(PathBuf::from);
        let protocol = match self.text("protocol").as_deref() {
            None => None,
            Some("auto") => Some(Protocol::Auto),
            Some("ascii") => Some(Protocol::Text),
            Some("binary") => Some(Protocol::Binary),
            Some(other) => {
                let text = format!(
                    "Invalid value for binding protocol: {other}\n -- should be one of auto, binary, or ascii"
                );
                self.problem(EXIT_USAGE, text);
                None
            }
        };
        if sasl && matches!(protocol, Some(Protocol::Auto | Protocol::Text)) {
            self.problem(
                EXIT_USAGE,
                "ERROR: You cannot allow the ASCII protocol while using SASL: -S needs -B binary, or no -B"
                    .to_owned(),
            );
        }
        if auth_file.is_some() && protocol == Some(Protocol::Binary) {
            self.problem(
                EXIT_USAGE,
                "ERROR: You cannot allow the BINARY protocol while using ascii authentication tokens: -Y needs -B ascii, or no -B".to_owned(),
            );
        }
        if auth_file.is_some() && sasl {
            self.problem(EXIT_USAGE, "ERROR: -Y and -S exclude each other: choose one".to_owned());
        }
        let protocol = protocol.unwrap_or(match (sasl, &auth_file) {
            (true, _) => Protocol::Binary,
            (false, Some(_)) => Protocol::Text,
            (false, None) => Protocol::Auto,
        });
        let prefix_delimiter = self.text("prefix-delimiter").map(|text| {
            if text.len() != 1 {
                self.problem(EXIT_USAGE, format!("-D {text}: the prefix delimiter takes one character"));
            }
            text.bytes().next().unwrap_or(b':')
        });
        let io = match self.text("io").as_deref() {
            None | Some("epoll") => Io::Epoll,
            Some("auto") => Io::Auto,
            Some("uring") => Io::Uring,
            Some(other) => {
                self.problem(EXIT_USAGE, format!("--io {other}: takes epoll, auto or uring"));
                Io::Epoll
            }
        };
        let listen = self.listen();
        let udp = self.port("udp-port", "-U", Port::Off);
        let port = if udp == Port::Off { Port::Number(11211) } else { udp };
        let port = self.port("port", "-p", port);
        let tls = self.tls(extended, &listen, port, unix.is_some());
        if udp != Port::Off {
            let why = [
                (auth_file.is_some(), "Cannot use UDP with ascii authentication enabled (-U 0 to disable)"),
                (
                    sasl,
                    "ERROR: You cannot enable UDP while using binary SASL authentication. (-U 0 to disable)",
                ),
                (
                    tls.is_some(),
                    "ERROR: You cannot enable UDP while using TLS: it would be open. (-U 0 to disable)",
                ),
            ];
            for (_, text) in why.iter().filter(|(holds, _)| *holds) {
                self.problem(EXIT_USAGE, (*text).to_owned());
            }
        }
        server::Config {
            listen,
            port,
            durable_port: self.sync_port(),
            udp,
            unix,
            backlog: self.count("listen-backlog", 1024, 1, 1 << 20, "-b", None),
            connections_max: self.count(
                "conn-limit",
                1024,
                1,
                10_000_000,
                "-c",
                Some("Maximum connections must be greater than 0"),
            ),
            refuse_fast: extended.refuse_fast,
            idle_timeout: extended.idle_timeout,
            threads: self.count(
                "threads",
                4,
                1,
                1024,
                "-t",
                Some("Number of threads must be greater than 0"),
            ),
            io,
            requests_per_turn: self.count(
                "max-reqs-per-event",
                20,
                1,
                u32::MAX as usize,
                "-R",
                Some("Number of requests per event must be greater than 0"),
            ),
            protocol,
            flush_enabled: !self.flag("disable-flush-all"),
            dump_enabled: !self.flag("disable-dumping"),
            watch_enabled: !self.flag("disable-watch"),
            shutdown_enabled: self.flag("enable-shutdown"),
            detail_enabled: prefix_delimiter.is_some(),
            prefix_delimiter: prefix_delimiter.unwrap_or(b':'),
            item_size_max: self.item_size_max(),
            cas: !self.flag("disable-cas"),
            auth_file,
            sasl,
            tls,
        }
    }

    fn tls(
        &mut self,
        extended: &Extended,
        listen: &[Listen],
        port: Port,
        is_unix: bool,
    ) -> Option<TlsConfig> {
        let word = |name: &str| extended.shown.get(name);
        if !self.flag("enable-ssl") {
            if let Some(name) = extended.shown.keys().find(|name| name.starts_with("ssl_")) {
                self.problem(EXIT_USAGE, format!("-o {name} concerns TLS, but there is none: add -Z"));
            }
            if listen.iter().any(|listen| matches!(listen.security, Security::Basic | Security::Mutual)) {
                self.problem(EXIT_USAGE, "-l btls: and mtls: need TLS: add -Z".to_owned());
            }
            return None;
        }
        if is_unix || (port == Port::Off && listen.iter().all(|listen| listen.port.is_none())) {
            let text = "ERROR: You cannot enable SSL without a TCP port. (-Z with -s or -p 0: remove one)";
            self.problem(EXIT_USAGE, text.to_owned());
        }
        for name in ["ssl_chain_cert", "ssl_key"] {
            if word(name).is_none() {
                self.problem(EXIT_USAGE, format!("-Z needs -o {name}=FILE"));
            }
        }
        let verify = match word("ssl_verify_mode").map_or("0", String::as_str) {
            "0" => Verify::Never,
            "2" => Verify::Require,
            // There is one handshake per connection, so `once` is what `request` is.
            _ => Verify::Request,
        };
        let mutual = listen.iter().any(|listen| listen.security == Security::Mutual);
        if (verify != Verify::Never || mutual) && word("ssl_ca_cert").is_none() {
            let what = if mutual { "-l mtls:" } else { "-o ssl_verify_mode" };
            self.problem(
                EXIT_USAGE,
                format!(
                    "{what} asks clients for certificates: say with -o ssl_ca_cert=FILE who may sign them"
                ),
            );
        }
        let path = |name: &str| word(name).map(PathBuf::from);
        let ciphers = word("ssl_ciphers").map_or("", String::as_str);
        Some(TlsConfig {
            chain: path("ssl_chain_cert").unwrap_or_default(),
            key: path("ssl_key").unwrap_or_default(),
            key_is_der: word("ssl_keyformat").is_some_and(|format| format == "2"),
            authorities: path("ssl_ca_cert"),
            verify,
            only_13: word("ssl_min_version").is_some_and(|version| version == "tlsv1.3"),
            ciphers: ciphers.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            session_cache: word("ssl_session_cache").is_some(),
            write_buffer: word("ssl_wbuf_size").and_then(|size| size.parse().ok()).unwrap_or(16 << 10),
        })
    }

    fn listen(&mut self) -> Vec<Listen> {
        let lists = self.texts("listen");
        let elements = lists.iter().flat_map(|list| list.split([',', ';'])).map(str::trim);
        let mut all = Vec::new();
        for element in elements.filter(|element| !element.is_empty()) {
            match listen::listen(element) {
                Ok(listen) => all.push(listen),
                Err(remedy) => self.problem(EXIT_SYSTEM, format!("-l {element}: {remedy}")),
            }
        }
        all
    }

    fn sync_port(&mut self) -> Option<u16> {
        let text = self.text("sync-port")?;
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        if port.is_none() {
            self.problem(EXIT_USAGE, format!("--sync-port {text}: takes a port from 1 to 65535"));
        }
        port
    }

    fn port(&mut self, id: &str, flag: &str, default: Port) -> Port {
        match self.text(id) {
            None => default,
            Some(text) => match text.parse::<i64>() {
                Ok(0) => Port::Off,
                Ok(-1) => Port::Ephemeral,
                Ok(number @ 1..=65535) => Port::Number(number as u16),
                _ => {
                    let text = format!(
                        "ERROR: Invalid port number {text}. ({flag} takes 1 to 65535, 0 for none, -1 for any free one)"
                    );
                    self.problem(EXIT_USAGE, text);
                    Port::Off
                }
            },
        }
    }
}
