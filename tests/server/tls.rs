//! TLS, over sockets, with certificates made on the spot.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::harness::{Node, PATIENCE, config, until};

/// A node that is reached by TLS only, and a way to it.
pub(crate) fn secured_node() -> (Node, impl Fn() -> Secured) {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let node = Node::start(&authority.flags(""));
    let (address, config) = (node.address, Arc::new(authority.client(None, &TLS13)));
    (node, move || connect(address, "localhost", &config))
}

/// Somebody who signs, and a directory for what is signed.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Signs a certificate for `host` into NAME.pem and NAME.key.
    pub(crate) fn sign(&self, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.der")), key.serialize_der()).unwrap();
    }

    /// The flags of a server with the certificate `server`, and of clients' authority.
    pub(crate) fn flags(&self, more: &str) -> String {
        format!(
            "-Z -o ssl_chain_cert={},ssl_key={},ssl_ca_cert={}{more}",
            self.path("server.pem").display(),
            self.path("server.key").display(),
            self.path("ca.pem").display()
        )
    }

    /// A client's configuration that trusts this authority and shows a certificate of that name.
    fn client(&self, identity: Option<&str>, version: &'static SupportedProtocolVersion) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::pem_file_iter(self.path(&format!("{name}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        }
    }
}

pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

fn connect(address: SocketAddr, host: &str, config: &Arc<ClientConfig>) -> Secured {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), socket)
}

fn try_ask(client: &mut Secured, request: &str, answer: &str) -> std::io::Result<()> {
    client.write_all(request.as_bytes())?;
    let mut got = vec![0; answer.len()];
    client.read_exact(&mut got)?;
    assert_eq!(got.escape_ascii().to_string(), answer.as_bytes().escape_ascii().to_string());
    Ok(())
}

#[track_caller]
fn ask(client: &mut Secured, request: &str, answer: &str) {
    try_ask(client, request, answer).unwrap();
}

/// Whether such a client is let in.
fn admits(address: SocketAddr, config: ClientConfig) -> bool {
    try_ask(&mut connect(address, "localhost", &Arc::new(config)), "mn\r\n", "MN\r\n").is_ok()
}

fn stat(client: &mut Secured, name: &str) -> u64 {
    client.write_all(b"stats\r\n").unwrap();
    let mut got = Vec::new();
    let mut part = [0; 4096];
    while !got.ends_with(b"END\r\n") {
        let count = client.read(&mut part).unwrap();
        got.extend_from_slice(&part[..count]);
    }
    let text = String::from_utf8(got).unwrap();
    let row = text.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    row.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[test]
fn everything_works_under_tls_of_either_version() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let node = Node::start(&authority.flags(""));
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(authority.client(None, version));
        let mut client = connect(node.address, "localhost", &config);
        ask(&mut client, "set a 0 0 1\r\nb\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nb\r\nEND\r\n");
        // Larger than any buffer on the way, both ways.
        let large = "x".repeat(900_000);
        ask(&mut client, &format!("set l 0 0 900000\r\n{large}\r\n"), "STORED\r\n");
        let value = format!("VALUE l 0 900000\r\n{large}\r\n");
        ask(&mut client, "get l l l\r\n", &format!("{value}{value}{value}END\r\n"));
        let pipeline = "get a\r\n".repeat(500);
        ask(&mut client, &pipeline, &"VALUE a 0 1\r\nb\r\nEND\r\n".repeat(500));
        // The end is an end, not a cut.
        client.write_all(b"quit\r\n").unwrap();
        assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    }
    let mut client = connect(node.address, "localhost", &Arc::new(authority.client(None, &TLS13)));
    ask(&mut client, "watch fetchers\r\n", "OK\r\n");
    let mut other = connect(node.address, "localhost", &Arc::new(authority.client(None, &TLS13)));
    ask(&mut other, "get none\r\n", "END\r\n");
    let mut line = [0; 3];
    client.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ts=");
}

#[test]
fn whoever_does_not_speak_tls_is_counted_and_closed() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let node = Node::start(&authority.flags(""));
    let mut plain = node.client();
    plain.send("get a\r\nget b\r\n");
    let mut rest = Vec::new();
    let _alert_or_reset = plain.0.read_to_end(&mut rest);
    assert!(!rest.windows(3).any(|part| part == b"END"), "{}", rest.escape_ascii());
    let mut client = connect(node.address, "localhost", &Arc::new(authority.client(None, &TLS13)));
    assert_eq!(stat(&mut client, "ssl_handshake_errors"), 1);
    assert_eq!(stat(&mut client, "ssl_proto_errors"), 0);
    // Bytes that are no record, after the handshake.
    client.sock.write_all(&[0x55; 64]).unwrap();
    let mut other = connect(node.address, "localhost", &Arc::new(authority.client(None, &TLS13)));
    until("it to be counted", || stat(&mut other, "ssl_proto_errors") == 1);
    assert!(stat(&mut other, "time_since_server_cert_refresh") < 60);
}

#[test]
fn a_handshake_without_an_end_is_cut_off() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let node = Node::start(&authority.flags(""));
    let mut stranger = node.client();
    // Handshake records that announce a message of 16 MB, until the server has had enough.
    let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    let cut = (0..1000).any(|_| stranger.0.write_all(&record).is_err());
    assert!(cut);
    let mut client = connect(node.address, "localhost", &Arc::new(authority.client(None, &TLS13)));
    assert_eq!(stat(&mut client, "ssl_handshake_errors"), 1);
}

#[test]
fn clients_show_certificates_as_the_mode_says() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    authority.sign("alice", "alice");
    let stranger = Authority::new();
    stranger.sign("mallory", "mallory");
    let alice = || authority.client(Some("alice"), &TLS13);
    let nobody = || authority.client(None, &TLS13);
    // Trusts the server, but shows a certificate of somebody else's.
    let mallory = || {
        for end in ["pem", "key"] {
            let name = format!("mallory.{end}");
            std::fs::copy(stranger.path(&name), authority.path(&name)).unwrap();
        }
        authority.client(Some("mallory"), &TLS13)
    };
    for (mode, expected) in [
        (0, [true, true, true]),
        (1, [true, true, false]),
        (2, [true, false, false]),
        (3, [true, true, false]),
    ] {
        let node = Node::start(&authority.flags(&format!(",ssl_verify_mode={mode}")));
        let found = [alice(), nobody(), mallory()].map(|client| admits(node.address, client));
        assert_eq!(found, expected, "mode {mode}");
    }
}

#[test]
fn each_listener_speaks_as_its_prefix_says() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    authority.sign("alice", "alice");
    let listen = "-l notls:127.0.0.2,btls:127.0.0.3,mtls:127.0.0.4";
    let node = Node::start(&format!("{} {listen}", authority.flags("")));
    let addresses = node.app().addresses().to_vec();
    let at = |host: [u8; 4]| {
        *addresses.iter().find(|address| address.ip() == std::net::IpAddr::from(host)).unwrap()
    };
    let (alice, nobody) = (|| authority.client(Some("alice"), &TLS12), || authority.client(None, &TLS12));
    crate::harness::Client::connect(at([127, 0, 0, 2])).ask("mn\r\n", "MN\r\n");
    for (host, with, without) in
        [([127, 0, 0, 1], true, true), ([127, 0, 0, 3], true, true), ([127, 0, 0, 4], true, false)]
    {
        assert_eq!((admits(at(host), alice()), admits(at(host), nobody())), (with, without), "{host:?}");
    }
}

#[test]
fn certificates_are_read_again_without_dropping_anybody() {
    let authority = Authority::new();
    authority.sign("server", "old.example");
    let node = Node::start(&authority.flags(""));
    let config = Arc::new(authority.client(None, &TLS13));
    let mut early = connect(node.address, "old.example", &config);
    ask(&mut early, "set a 0 0 1\r\nb\r\n", "STORED\r\n");
    let is_new = || try_ask(&mut connect(node.address, "new.example", &config), "mn\r\n", "MN\r\n").is_ok();
    assert!(!is_new());
    authority.sign("server", "new.example");
    ask(&mut early, "refresh_certs\r\n", "OK\r\n");
    assert!(is_new());
    ask(&mut early, "get a\r\n", "VALUE a 0 1\r\nb\r\nEND\r\n");
    // A file that is no certificate changes nothing, on SIGHUP or by command.
    std::fs::write(authority.path("server.pem"), "nonsense").unwrap();
    ask(
        &mut early,
        "refresh_certs\r\n",
        "Error the certificates cannot be read; the server's log says why\r\n",
    );
    node.app().reload();
    assert!(is_new());
    authority.sign("server", "old.example");
    node.app().reload();
    assert!(!is_new());
    ask(&mut early, "mn\r\n", "MN\r\n");
}

#[test]
fn sessions_are_resumed_only_with_the_cache() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    for (more, resumed) in [("", HandshakeKind::Full), (",ssl_session_cache", HandshakeKind::Resumed)] {
        let node = Node::start(&authority.flags(more));
        let config = Arc::new(authority.client(None, &TLS13));
        let mut first = connect(node.address, "localhost", &config);
        ask(&mut first, "mn\r\n", "MN\r\n");
        let mut second = connect(node.address, "localhost", &config);
        ask(&mut second, "mn\r\n", "MN\r\n");
        assert_eq!(second.conn.handshake_kind(), Some(resumed), "{more}");
        if resumed == HandshakeKind::Resumed {
            assert_eq!(stat(&mut second, "ssl_new_sessions"), 1);
        }
    }
}

#[test]
fn versions_ciphers_and_key_formats_are_as_asked() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let only_13 = Node::start(&authority.flags(",ssl_min_version=3"));
    assert!(!admits(only_13.address, authority.client(None, &TLS12)));
    assert!(admits(only_13.address, authority.client(None, &TLS13)));
    let flags = authority.flags(",ssl_ciphers=ECDHE-ECDSA-AES128-GCM-SHA256");
    let one = Node::start(&flags);
    let mut client = connect(one.address, "localhost", &Arc::new(authority.client(None, &TLS12)));
    ask(&mut client, "mn\r\n", "MN\r\n");
    let suite = client.conn.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite.as_str(), Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"));
    let der = authority.flags(",ssl_keyformat=2").replace("server.key", "server.der");
    assert!(admits(Node::start(&der).address, authority.client(None, &TLS13)));
}

#[test]
fn files_that_are_missing_or_wrong_stop_the_start_by_name() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    authority.sign("other", "other");
    std::fs::write(authority.path("empty"), "").unwrap();
    let good = authority.flags("");
    for (flags, expected) in [
        (good.replace("server.pem", "none"), "none: No such file"),
        (good.replace("server.key", "none"), "none: No such file"),
        (good.replace("ca.pem", "none"), "none: No such file"),
        (good.replace("server.pem", "empty"), "empty: no certificate in PEM"),
        (good.replace("server.key", "empty"), "empty: no private key in PEM"),
        (good.replace("server.key", "server.pem"), "server.pem: no private key in PEM"),
        (good.replace("server.key", "other.key"), "they must belong together"),
        (format!("{good},ssl_ciphers=RC4-MD5"), "`RC4-MD5` is not here; there are ECDHE-"),
    ] {
        let problems = tandemd::app::Sockets::bind(&config(&flags)).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}
