//! The one definition of the flags. Command line, environment, configuration file, help, manual pages,
//! completions and the table in the README are made from it; to add a flag, add a line to its group
//! here and read it in `read/`.
//!
//! memcached's letters mean what they mean there, with one exception that repcached brought: `-X N`
//! is the replication port. A bare `-X`, as memcached has it, still forbids dumping; the unambiguous
//! spelling is `--disable-dumping`. Values may begin with a dash or blanks, later flags win over
//! earlier ones, `-l` and `-o` add up.
//!
//! A default that the help names in `[default: …]` is what `config show` prints.

use clap::{Arg, ArgAction, Command};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: it is on or off.
    Switch,
    /// Nothing: it counts how often it is given.
    Count,
    /// yes or no.
    YesNo,
    /// One value.
    Value,
    /// Any number of values.
    List,
}

/// What a flag takes.
pub(super) fn kind(arg: &Arg) -> Kind {
    match arg.get_action() {
        ArgAction::SetTrue => Kind::Switch,
        ArgAction::Count => Kind::Count,
        ArgAction::Append => Kind::List,
        _ if arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "YES|NO")) => {
            Kind::YesNo
        }
        _ => Kind::Value,
    }
}

/// What is asked of the program rather than set: only on the command line.
const ASKED: [&str; 4] = ["help", "version", "license", "check-config"];

/// The flags that are settings, in the help's order: those that the environment and a configuration
/// file have too.
pub(super) fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        let id = arg.get_id().as_str();
        !arg.is_hide_set() && !ASKED.contains(&id) && id != "replication-port-letter"
    })
}

/// The default that a flag's help names.
pub(super) fn default(arg: &Arg) -> Option<String> {
    let help = arg.get_help()?.to_string();
    let (_, default) = help.rsplit_once("[default: ")?;
    default.strip_suffix(']').map(str::to_owned)
}

/// Flags that mean nothing without a pair.
pub(super) const PAIR_ONLY: [&str; 31] = [
    "verify-interval",
    "ack",
    "ack-prefix",
    "sync-port",
    "ack-timeout",
    "ack-strict",
    "state-dir",
    "profile",
    "heartbeat-interval",
    "dead-after",
    "failback",
    "failback-delay",
    "preferred",
    "start-alone",
    "heartbeat-peer",
    "backup-requests",
    "heal",
    "backlog",
    "psk-file",
    "replication-tls-cert",
    "replication-tls-key",
    "replication-tls-ca",
    "replication-tls-name",
    "arbiter",
    "arbiter-tls-ca",
    "arbiter-tls-cert",
    "arbiter-tls-key",
    "arbiter-auth-file",
    "on-role-change",
    "fence-command",
    "insecure-replication",
];

/// All of them.
pub fn definition() -> Command {
    let command = Command::new("tandemd")
        .about("A memcached server that can be one of a pair: the pair behaves as one node that survives the loss of either.")
        .override_usage("tandemd [flags]\n       tandemd -u USER -m 1024 -x OTHER-NODE --psk-file KEY")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .term_width(100);
    let command = network(command);
    let command = memory(command);
    let command = service(command);
    let command = process(command);
    pair(command)
}

fn value(id: &'static str, letter: Option<char>, name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(id).long(id).value_name(name).help(help).allow_hyphen_values(true).num_args(1);
    match letter {
        Some(letter) => arg.short(letter),
        None => arg,
    }
}

fn switch(id: &'static str, letter: Option<char>, help: &'static str) -> Arg {
    let arg = Arg::new(id).long(id).help(help).action(ArgAction::SetTrue);
    match letter {
        Some(letter) => arg.short(letter),
        None => arg,
    }
}

fn network(command: Command) -> Command {
    command.next_help_heading("Network").args([
        value("port", Some('p'), "N", "TCP port; 0 for none, -1 for any free one [default: 11211]"),
        value("listen", Some('l'), "ADDR", "Addresses to listen on: HOST, HOST:PORT, [V6]:PORT, comma separated; may be repeated; with notls:, btls: or mtls: in front without TLS, with TLS, or with TLS and clients' certificates [default: every interface]")
            .action(ArgAction::Append),
        value("unix-socket", Some('s'), "FILE", "UNIX socket to listen on instead of TCP"),
        value("unix-mask", Some('a'), "MASK", "Access mask of the UNIX socket, octal [default: 700]"),
        value("conn-limit", Some('c'), "N", "Most simultaneous connections [default: 1024]"),
        value("listen-backlog", Some('b'), "N", "Length of the queue of connections to be accepted [default: 1024]"),
        value("protocol", Some('B'), "NAME", "ascii, binary or auto [default: auto]"),
        value("max-reqs-per-event", Some('R'), "N", "Requests of one connection before others have a turn [default: 20]"),
        value("udp-port", Some('U'), "N", "UDP port, and the TCP port without -p; 0 for none, -1 for any free one [default: 0]"),
        switch("enable-ssl", Some('Z'), "TLS for clients; needs -o ssl_chain_cert=FILE,ssl_key=FILE; SIGHUP and `refresh_certs` read them again"),
        value("napi_ids", Some('N'), "N", "").hide(true),
    ])
}

fn memory(command: Command) -> Command {
    command.next_help_heading("Memory").args([
        value("memory-limit", Some('m'), "MB", "Memory for items in megabytes [default: 64]"),
        switch(
            "disable-evictions",
            Some('M'),
            "Answer with an error instead of evicting when memory is full",
        ),
        value("max-item-size", Some('I'), "SIZE", "Largest item, with k or m; 1k to 1024m [default: 1m]"),
        switch("disable-cas", Some('C'), "Keep no CAS uniques"),
        switch("lock-memory", Some('k'), "Lock all memory into RAM"),
        value("slab-growth-factor", Some('f'), "X", "Accepted for memcached's sake [default: 1.25]"),
        value("slab-min-size", Some('n'), "N", "Accepted for memcached's sake [default: 48]"),
        switch("enable-largepages", Some('L'), "Accepted for memcached's sake"),
        value(
            "memory-file",
            Some('e'),
            "FILE",
            "Keep items there from a graceful stop (SIGUSR1) to the next start; for a node without a peer",
        ),
    ])
}

fn service(command: Command) -> Command {
    command.next_help_heading("Service").args([
        value("threads", Some('t'), "N", "Worker threads [default: 4]"),
        value("io", None, "HOW", "How workers wait for their sockets: epoll, uring (io_uring; Linux 6.1 or newer), or auto: uring where it is allowed [default: epoll]"),
        value("auth-file", Some('Y'), "FILE", "Authentication for the text protocol: lines of user:password; SIGHUP reads it again"),
        switch("enable-sasl", Some('S'), "SASL authentication for the binary protocol (PLAIN; users in $MEMCACHED_SASL_PWDB)"),
        switch("enable-shutdown", Some('A'), "Allow the command `shutdown`"),
        switch("disable-flush-all", Some('F'), "Refuse the command `flush_all`"),
        switch("disable-dumping", None, "Refuse `stats cachedump`, `lru_crawler metadump` and `mgdump` (memcached's -X)"),
        switch("disable-watch", Some('W'), "Refuse the command `watch`"),
        value("prefix-delimiter", Some('D'), "CHAR", "Count by key prefix up to this character, as `stats detail on` does"),
        value("extended", Some('o'), "LIST", "memcached's extended options, comma separated: maxconns_fast, no_maxconns_fast, idle_timeout=SECONDS, track_sizes; for -Z: ssl_chain_cert=FILE, ssl_key=FILE, ssl_ca_cert=FILE, ssl_verify_mode=0 (no), 1 (request), 2 (require) or 3 (once), ssl_min_version=2 (TLS 1.2) or 3, ssl_ciphers=A:B, ssl_keyformat=1 (PEM) or 2 (DER), ssl_session_cache, ssl_wbuf_size=KB; those that tune memcached's own memory layout are accepted without effect")
            .action(ArgAction::Append),
    ])
}

fn process(command: Command) -> Command {
    command.next_help_heading("Process").args([
        value("config", None, "FILE", "Read settings from this file: TOML with the names of these flags, or memcached's lines of flags; what the command line or $TANDEM_… says wins"),
        switch("check-config", None, "Print what is in force and where each value comes from, or all that is wrong; then exit"),
        value("log-format", None, "NAME", "human, or json for one object per line [default: human]"),
        switch("daemon", Some('d'), "Run in the background"),
        value("user", Some('u'), "USER", "Become this user (needed when started by root)"),
        value("pidfile", Some('P'), "FILE", "Write the process id there"),
        switch("enable-coredumps", Some('r'), "Allow core dumps"),
        Arg::new("verbose")
            .short('v')
            .long("verbose")
            .action(ArgAction::Count)
            .help("Log more; -vv and -vvv still more"),
        Arg::new("help")
            .short('h')
            .long("help")
            .action(ArgAction::HelpShort)
            .help("Print this help and exit"),
        switch("license", Some('i'), "Print the license and exit"),
        switch("version", Some('V'), "Print the version and exit"),
    ])
}

fn pair(command: Command) -> Command {
    command.next_help_heading("Pair").args([
        value("peer", Some('x'), "HOST[:PORT]", "The other node"),
        value("heartbeat-peer", None, "HOST[:PORT]", "The other node on another network, for a second path of heartbeats: with the cable for data dead and this one alive the backup does not take over"),
        value("replication-port", None, "PORT", "Replication port, here and at the peer; alone: wait for the peer to dial in [default: 11212]"),
        Arg::new("replication-port-letter").short('X').value_name("PORT").num_args(0..=1).default_missing_value("")
            .help("Same as --replication-port, as in repcached; without a number same as --disable-dumping, as in memcached"),
        value("replication-listen", None, "ADDR", "Addresses replication listens on [default: those of -l]").action(ArgAction::Append),
        value("psk-file", None, "FILE", "Pre-shared key that both nodes prove to each other and that seals the link (`tandemctl genkey` makes one); with two lines the first is used and both are taken; SIGHUP reads it again"),
        value("replication-tls-cert", None, "FILE", "TLS between the nodes: this node's certificate (PEM); SIGHUP reads it again"),
        value("replication-tls-key", None, "FILE", "Its private key (PEM)"),
        value("replication-tls-ca", None, "FILE", "Who signs the certificates of both nodes (PEM)"),
        value("replication-tls-name", None, "NAME", "The name in the peer's certificate [default: the host of -x]"),
        value("arbiter", None, "LIST", "Who decides when the nodes do not hear each other: HOST:PORT of a witness (or of three), or etcd://HOST:PORT,…[/NAME], under TLS etcds://…; then never two nodes serve at once"),
        value("arbiter-tls-ca", None, "FILE", "Who signs the certificates of an etcd that speaks TLS (PEM), if not whom this system trusts; SIGHUP reads it again"),
        value("arbiter-tls-cert", None, "FILE", "The certificate to show to it (PEM), if it wants one"),
        value("arbiter-tls-key", None, "FILE", "Its private key (PEM)"),
        value("arbiter-auth-file", None, "FILE", "File whose first line is user:password, for an etcd with users"),
        switch("witness", None, "Be a witness: no items, no clients, only the word who may serve"),
        value("on-role-change", None, "PROGRAM", "Run after every change of role, without a shell: PROGRAM ROLE EPOCH REASON"),
        value("fence-command", None, "PROGRAM", "Must succeed before a silent peer is replaced: PROGRAM PEER"),
        switch("insecure-replication", None, "Listen for replication beyond loopback without a key"),
        value("state-dir", None, "DIR", "Where epoch and history survive a restart [default: $STATE_DIRECTORY, if set]"),
        value("admin", None, "ADDR:PORT", "Admin port, or off [default: 127.0.0.1:11213 with a peer, else off]"),
        value("admin-token-file", None, "FILE", "Token that control requests need; --admin beyond loopback does not start without (`tandemctl genkey` makes one)"),
        value("profile", None, "NAME", "fast (20 ms, 250 ms), lan (100 ms, 1 s) or wan (500 ms, 5 s) [default: lan]"),
        value("heartbeat-interval", None, "TIME", "How often a node says that it is there [default: the profile's]"),
        value("dead-after", None, "TIME", "Silence after which the peer counts as dead [default: the profile's]"),
        value("failback", None, "WHO", "Handing the master role back to the preferred node: auto, manual or never [default: auto]"),
        value("failback-delay", None, "TIME", "How long the preferred node is caught up before it asks for the role [default: 60s]"),
        switch("preferred", None, "This node should be master when both are well"),
        value("start-alone", None, "YES|NO", "Serve alone if the peer is silent at start [default: yes]"),
        value("backup-requests", None, "HOW", "What a backup does with requests: proxy (hands them to the master), local-reads, reject, or accept (if both nodes are told so, both take writes; the newer of a key counts) [default: proxy]"),
        value("heal", None, "HOW", "What becomes of keys that both nodes changed while the network between them was cut: newest, winner or invalidate [default: newest]"),
        value("ack", None, "MODE", "When a write is answered: async (at once), received or applied (when the backup has it) [default: async]"),
        value("ack-prefix", None, "PREFIX", "Writes of keys that begin so are answered when the backup has them; comma separated; may be repeated").action(ArgAction::Append),
        value("sync-port", None, "PORT", "A second TCP port whose clients' writes are answered when the backup has them"),
        value("ack-timeout", None, "TIME", "How long such a write waits, before it is answered all the same and counted [default: 50ms]"),
        switch("ack-strict", None, "Answer it with SERVER_ERROR then"),
        value("verify-interval", None, "TIME", "How often the master compares all items with the backup's and repairs what differs [default: 1h]"),
        value("backlog", None, "MB", "Recent changes kept for a peer that was away [default: 16 or 1/16 of -m, whichever is more]"),
        value("repcached-peer", None, "HOST[:PORT]", "Take over the items of a live repcached 2.x and follow its changes [default port: 11212]"),
        value("queue-length", Some('q'), "N", "Accepted for repcached's sake").hide_long_help(true),
    ])
}
