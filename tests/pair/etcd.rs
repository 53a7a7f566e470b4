//! An etcd as arbiter, Debian's, with one member: plain, or under TLS with certificates made on the spot and with users.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair};
use rustix::process::Signal;

use crate::arbiter::{Killed, free_port, never_two, says, spawn};
use crate::harness::{PATIENCE, Pair, wait_for};
use crate::setup;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// On these addresses, and in that directory.
fn start(urls: &[String], directory: &Path, flags: &[String]) -> Killed {
    let urls = urls.join(",");
    let peers = format!("http://127.0.0.1:{}", free_port(&[LOOPBACK]));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(directory).args([
        "--name",
        "only",
        "--listen-client-urls",
        &urls,
        "--advertise-client-urls",
        &urls,
        "--listen-peer-urls",
        &peers,
        "--initial-advertise-peer-urls",
        &peers,
        "--initial-cluster",
        &format!("only={peers}"),
    ]);
    spawn(command.args(flags))
}

fn plain(addresses: &[IpAddr], port: u16, directory: &Path) -> Killed {
    let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}:{port}")).collect();
    start(&urls, directory, &[])
}

/// Somebody who signs, in a directory for what is signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).expect("a directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(directory.join("ca.pem"), certificate.pem()).expect("a file");
        Self { issuer: Issuer::new(params, key), directory }
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }

    /// Signs a certificate for these hosts into NAME.pem and NAME.key.
    fn sign(&self, name: &str, hosts: &[String]) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(hosts).expect("names");
        // An etcd's gateway answers nobody who shows a common name.
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("a file");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}

/// An etcd that answers nobody who does not show a certificate and say a password.
struct Guarded {
    authority: Authority,
    directory: PathBuf,
    _process: Killed,
}

impl Guarded {
    fn new(addresses: &[IpAddr], port: u16, directory: &Path) -> Self {
        let authority = Authority::new(directory, "authority");
        let hosts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        authority.sign("etcd", &hosts);
        authority.sign("node", &["node.example".to_owned()]);
        let mut urls: Vec<_> = hosts.iter().map(|host| format!("https://{host}:{port}")).collect();
        // For whoever sets it up.
        let inner = free_port(&[LOOPBACK]);
        urls.push(format!("http://127.0.0.1:{inner}"));
        let files = [("cert-file", "etcd.pem"), ("key-file", "etcd.key"), ("trusted-ca-file", "ca.pem")];
        let mut flags: Vec<_> =
            files.iter().flat_map(|(flag, file)| [format!("--{flag}"), authority.path(file)]).collect();
        flags.push("--client-cert-auth".to_owned());
        let process = start(&urls, &directory.join("data"), &flags);
        let made = Self { authority, directory: directory.to_owned(), _process: process };
        made.password("right", "tandem:of the pair");
        made.password("wrong", "tandem:of nobody");
        set_up(inner);
        made
    }

    fn password(&self, file: &str, line: &str) {
        std::fs::write(self.directory.join(file), format!("{line}\n")).expect("a file");
    }

    /// The flags of a node that may ask.
    fn flags(&self) -> Vec<String> {
        [
            ("--arbiter-tls-ca", self.authority.path("ca.pem")),
            ("--arbiter-tls-cert", self.authority.path("node.pem")),
            ("--arbiter-tls-key", self.authority.path("node.key")),
            ("--arbiter-auth-file", self.directory.join("right").display().to_string()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }
}

/// A user who may do with the pair's key what it takes, and nobody else may anything.
fn set_up(port: u16) {
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.encode(text)
    };
    let permission = format!(
        r#"{{"name":"pair","perm":{{"permType":"READWRITE","key":"{}"}}}}"#,
        base64("tandem/of-this-test/serves-alone")
    );
    for (what, body) in [
        ("user/add", r#"{"name":"root","password":"x"}"#),
        ("role/add", r#"{"name":"root"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("user/add", r#"{"name":"tandem","password":"of the pair"}"#),
        ("role/add", r#"{"name":"pair"}"#),
        ("role/grant", &permission),
        ("user/grant", r#"{"user":"tandem","role":"pair"}"#),
        ("enable", "{}"),
    ] {
        wait_for(what, PATIENCE, || post(port, what, body).filter(|answer| answer.contains(" 200 ")));
    }
}

fn post(port: u16, what: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect((LOOPBACK, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!(
        "POST /v3/auth/{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn with_an_etcd_two_nodes_never_take_writes_at_once() {
    never_two("etcd://", "", |addresses, port, directory| (plain(addresses, port, directory), Vec::new()));
}

#[test]
fn with_an_etcd_under_tls_with_users_two_nodes_never_take_writes_at_once() {
    never_two("etcds://", "/of-this-test", |addresses, port, directory| {
        let etcd = Guarded::new(addresses, port, directory);
        let flags = etcd.flags();
        (etcd, flags)
    });
}

/// A node by itself that asks that etcd, with flags of which some are others.
fn asking(arbiter: &str, flags: &[String], others: &[(&str, &str)]) -> Pair {
    let mut pair = setup().flag("--arbiter").flag(arbiter).pair();
    let mut flags = flags.to_vec();
    for (flag, value) in others {
        let at = flags.iter().position(|is| is == flag).expect("a flag that is there");
        match *value {
            "" => drop(flags.drain(at..at + 2)),
            value => value.clone_into(&mut flags[at + 1]),
        }
    }
    pair.nodes[0].flags.extend(flags);
    pair.nodes[0].start();
    pair
}

#[test]
fn why_an_etcd_does_not_answer_is_in_the_log_with_the_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port(&[LOOPBACK]);
    let etcd = Guarded::new(&[LOOPBACK], port, directory.path());
    let stranger = Authority::new(directory.path(), "stranger");
    let foreign = stranger.path("ca.pem");
    let wrong = directory.path().join("wrong").display().to_string();
    let plainly = free_port(&[LOOPBACK]);
    let _plain = plain(&[LOOPBACK], plainly, &directory.path().join("plain"));
    let tls = format!("etcds://127.0.0.1:{port}/of-this-test");
    let flags = etcd.flags();
    for (arbiter, flags, others, why) in [
        (format!("etcd://127.0.0.1:{port}"), &[][..], vec![], "name it as etcds://"),
        (format!("etcds://127.0.0.1:{plainly}"), &flags, vec![], "name it as etcd://"),
        (
            tls.clone(),
            &flags,
            vec![("--arbiter-tls-ca", &*foreign)],
            "has signed: name who did with --arbiter-tls-ca",
        ),
        (
            tls.clone(),
            &flags,
            vec![("--arbiter-tls-cert", ""), ("--arbiter-tls-key", "")],
            "--arbiter-tls-cert FILE --arbiter-tls-key FILE",
        ),
        (tls.clone(), &flags, vec![("--arbiter-auth-file", "")], "--arbiter-auth-file"),
        (tls.clone(), &flags, vec![("--arbiter-auth-file", &*wrong)], "--arbiter-auth-file"),
        (format!("etcds://127.0.0.1:{port}/another"), &flags, vec![], "whose role reads and writes the key"),
    ] {
        let pair = asking(&arbiter, flags, &others);
        wait_for(&format!("the log: {why}"), PATIENCE, || {
            let log = pair.nodes[0].log();
            let told = log.lines().any(|line| line.contains("arbiter: ") && line.contains(why));
            told.then_some(())
        });
        wait_for("so do the statistics", PATIENCE, || says(&pair, 0, "arbiter", "down"));
        assert_ne!(pair.nodes[0].role(), "master", "nobody let it");
    }

    // What is repaired counts from the next SIGHUP on.
    let pair = asking(&tls, &flags, &[("--arbiter-auth-file", &wrong)]);
    wait_for("it is refused", PATIENCE, || says(&pair, 0, "arbiter", "down"));
    etcd.password("wrong", "tandem:of the pair");
    pair.nodes[0].signal(Signal::HUP);
    wait_for("it is let in", PATIENCE, || says(&pair, 0, "arbiter", "up"));
    // What was wrong before must not stop it later.
    etcd.password("wrong", "nonsense");
    pair.nodes[0].signal(Signal::HUP);
    wait_for("the file is named", PATIENCE, || {
        pair.nodes[0].log().contains("its first line is not user:password").then_some(())
    });
    assert!(says(&pair, 0, "arbiter", "up").is_some());
}
