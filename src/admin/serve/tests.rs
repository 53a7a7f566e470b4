//! The admin port over real sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime};

use super::*;
use crate::admin::client::{Client, Error};
use crate::admin::events::EventLog;
use crate::admin::metrics::Metric;
use crate::admin::report::{Event, Link, Node, Samples, Status};
use crate::admin::routes::FOLLOWERS_MAX;
use crate::admin::{BoxFuture, Verb};

struct Source {
    role: Mutex<String>,
    events: EventLog,
    /// How often the metrics were put together.
    looks: Arc<AtomicU64>,
}

impl AdminSource for Source {
    fn status(&self) -> Status {
        let role = self.role.lock().unwrap().clone();
        Status {
            format: Status::FORMAT,
            node: Node { role, ready: true, ..Node::default() },
            link: Some(Link { lag_records: 42, ..Link::default() }),
            ..Status::default()
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        vec![Metric::counter("memcached_cmd_get_total", "Gets.", 7)]
    }

    fn samples(&self, from: u64) -> Samples {
        Samples { first: from, ..Samples::default() }
    }

    fn events(&self) -> &EventLog {
        &self.events
    }

    fn act(&self, verb: Verb) -> BoxFuture<'_, Result<String, String>> {
        let result = match verb {
            Verb::Switchover => {
                "backup".clone_into(&mut self.role.lock().unwrap());
                let event =
                    Event { kind: "role".to_owned(), text: "handed over".to_owned(), ..Event::default() };
                self.events.add(SystemTime::now(), event);
                Ok("the roles have changed".to_owned())
            }
            Verb::Promote { force: false } => Err("the peer may be alive".to_owned()),
            other => Ok(other.path()),
        };
        Box::pin(std::future::ready(result))
    }
}

/// A running admin port on its own thread, as in the product.
fn start() -> (String, std::sync::mpsc::Receiver<()>) {
    start_with(Access::default())
}

fn start_with(access: Access) -> (String, std::sync::mpsc::Receiver<()>) {
    start_counting(access, Arc::default())
}

/// As it is counted there how often the metrics were put together.
fn start_counting(access: Access, looks: Arc<AtomicU64>) -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (running, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _running = running;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let role = Mutex::new("master".to_owned());
            let source = Source { role, events: EventLog::default(), looks };
            serve(TcpListener::from_std(listener).unwrap(), Arc::new(source), Arc::new(access)).await;
        });
    });
    (address, stopped)
}

#[test]
fn every_page_says_what_it_should() {
    let (address, _port) = start();
    let client = Client::new(&address);
    assert_eq!(client.page("/healthz").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(client.page("/readyz").unwrap(), (200, "ready: master\n".to_owned()));
    assert_eq!(client.page("/readyz?role=master").unwrap().0, 200);
    assert_eq!(client.page("/role").unwrap(), (200, "master\n".to_owned()));
    assert_eq!(client.status().unwrap().link.unwrap().lag_records, 42);
    let (code, metrics) = client.page("/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(metrics.contains("\nmemcached_cmd_get_total 7\n"), "{metrics}");
    assert!(metrics.contains("\ntandem_lag_records 42\n"), "{metrics}");
    assert_eq!(client.page("/nonsense").unwrap().0, 404);
}

#[test]
fn a_storm_of_scrapes_costs_what_fifty_a_second_cost() {
    let looks = Arc::new(AtomicU64::new(0));
    let (address, _port) = start_counting(Access::default(), Arc::clone(&looks));
    let client = Client::new(&address);
    let start = Instant::now();
    for _ in 0..300 {
        assert!(client.page("/metrics").unwrap().1.contains("\nmemcached_cmd_get_total 7\n"));
    }
    let most = start.elapsed().as_millis() as u64 / 20 + 1;
    let looks = looks.load(Ordering::Relaxed);
    assert!((1..=most).contains(&looks), "{looks} looks, at most {most} are due");
}

#[test]
fn roles_change_on_request_and_refusals_say_why() {
    let (address, _port) = start();
    let client = Client::new(&address);
    assert_eq!(client.promote(false), Err(Error::Refused("the peer may be alive".to_owned())));
    assert_eq!(client.promote(true), Ok(()));
    assert_eq!(client.switchover(), Ok(()));
    assert_eq!(client.page("/role").unwrap(), (503, "backup\n".to_owned()));
    assert_eq!(client.page("/readyz").unwrap().0, 200);
    assert_eq!(client.page("/readyz?role=master").unwrap().0, 503);
}

#[test]
fn web_pages_cannot_change_roles() {
    let (address, _port) = start();
    let answer = raw(&address, "POST /switchover HTTP/1.1\r\nhost: x\r\norigin: http://evil.example\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(Client::new(&address).page("/role").unwrap().1, "master\n");
}

#[test]
fn nonsense_is_cut_off_and_harms_nobody() {
    let (address, _port) = start();
    assert!(raw(&address, "get key\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(64 << 10));
    raw(&address, &long);
    let answer = raw(&address, "DELETE /status HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert_eq!(Client::new(&address).page("/healthz").unwrap().0, 200);
}

#[test]
fn a_thousand_idle_connections_keep_nobody_waiting() {
    let (address, _port) = start();
    let mut idle = Vec::new();
    for number in 0..1000 {
        idle.push(std::net::TcpStream::connect(&address).unwrap());
        if number % 100 == 99 {
            assert_eq!(
                Client::new(&address).page("/healthz").unwrap().0,
                200,
                "with {number} idle connections"
            );
        }
    }
    // Those that were sent away know it; at most the places there are were kept.
    let ended = |stream: &mut std::net::TcpStream| {
        stream.set_nonblocking(true).unwrap();
        !matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let patience = Instant::now() + Duration::from_secs(20);
    while idle.iter_mut().filter_map(|stream| (!ended(stream)).then_some(())).count() > CONNECTIONS_MAX {
        assert!(Instant::now() < patience, "too many idle connections are kept");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn whoever_sends_or_reads_slowly_is_cut_off_and_delays_nobody() {
    let (address, _port) = start();
    let mut slow: Vec<_> =
        (0..2 * CONNECTIONS_MAX).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    for stream in &mut slow {
        let _sent_away = stream.write_all(b"GET /sta");
    }
    assert_eq!(Client::new(&address).page("/healthz").unwrap().0, 200);
    // And those who ask and then do not read.
    let mut deaf: Vec<_> =
        (0..2 * CONNECTIONS_MAX).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    for stream in &mut deaf {
        let _sent_away = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    assert_eq!(Client::new(&address).page("/healthz").unwrap().0, 200);
    let last = slow.last_mut().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _words_of_parting = last.read_to_end(&mut Vec::new()).expect("it is closed, sooner or later");
}

#[test]
fn a_body_is_refused_before_it_comes() {
    let (address, _port) = start();
    let answer = raw(&address, "POST /switchover HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(Client::new(&address).page("/role").unwrap().1, "master\n");
}

#[test]
fn with_a_token_control_is_for_those_who_have_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"a-token-of-some-length\n").unwrap();
    let (address, _port) = start_with(Access::new(Some(file.path())).unwrap());
    let client = Client::new(&address);
    assert!(matches!(client.switchover(), Err(Error::Refused(why)) if why.contains("--admin-token-file")));
    let wrong = client.clone().with_token("a-token-of-some-lengtH");
    assert!(matches!(wrong.switchover(), Err(Error::Refused(why)) if why.contains("not the token")));
    assert_eq!(client.status().unwrap().control, "token");
    let (_, metrics) = client.page("/metrics").unwrap();
    assert!(metrics.contains("\ntandem_admin_refused_total 2\n"), "{metrics}");
    assert_eq!(client.page("/role").unwrap().1, "master\n");
    client.with_token("a-token-of-some-length").switchover().unwrap();
}

#[test]
fn each_verb_has_its_path() {
    let (address, _port) = start();
    let client = Client::new(&address);
    for verb in [
        Verb::Demote,
        Verb::Resync,
        Verb::PauseFailover,
        Verb::ResumeFailover,
        Verb::Promote { force: true },
        Verb::LogLevel("debug".to_owned()),
    ] {
        assert_eq!(client.act(&verb), Ok(verb.path()));
        let (path, query) = verb.path().split_once('?').map_or_else(
            || (verb.path(), String::new()),
            |(path, query)| (path.to_owned(), query.to_owned()),
        );
        assert!(Verb::PATHS.split(' ').any(|known| known == path));
        assert_eq!(Verb::parse(&path, &query), Some(verb));
    }
    let answer = raw(&address, "POST /nonsense HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

/// The next event's fields of a stream.
fn next_event(stream: &mut impl std::io::BufRead) -> Vec<String> {
    let mut event = Vec::new();
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ends after {event:?}");
        // Chunks of the transfer encoding are lines of their own here.
        let line = line.trim_end();
        match line.split_once(": ") {
            Some(("id" | "event" | "data", _)) => event.push(line.to_owned()),
            _ if line.is_empty() && event.len() == 3 => return event,
            _ => {}
        }
    }
}

#[test]
fn events_are_replayed_and_then_come_as_they_happen() {
    let (address, _port) = start();
    let client = Client::new(&address);
    client.switchover().unwrap();
    let history = client.history().unwrap();
    assert_eq!(history.len(), 1);
    let follow = |more: &str| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nhost: x\r\n{more}\r\n").unwrap();
        BufReader::new(stream)
    };
    let mut stream = follow("");
    let first = next_event(&mut stream);
    assert_eq!(first[0], format!("id: {}", history[0].id));
    assert_eq!(first[1], "event: role");
    assert!(first[2].contains("handed over"), "{first:?}");
    client.switchover().unwrap();
    assert_eq!(next_event(&mut stream)[0], format!("id: {}", history[0].id + 1));
    // Whoever comes back is told what it missed, and only that.
    let mut again = follow(&format!("last-event-id: {}\r\n", history[0].id));
    assert_eq!(next_event(&mut again)[0], format!("id: {}", history[0].id + 1));
}

#[test]
fn those_who_follow_events_are_bounded_and_their_places_come_back() {
    let (address, _port) = start();
    let follow = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        (stream, line)
    };
    let mut followers: Vec<_> = (0..FOLLOWERS_MAX).map(|_| follow()).collect();
    assert!(followers.iter().all(|(_, line)| line.contains(" 200 ")));
    assert!(follow().1.contains(" 503 "));
    assert_eq!(Client::new(&address).page("/healthz").unwrap().0, 200);
    let (gone, _) = followers.pop().unwrap();
    gone.shutdown(Shutdown::Both).unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while !follow().1.contains(" 200 ") {
        assert!(Instant::now() < patience, "a place does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn openmetrics_is_for_those_who_ask_for_it() {
    let (address, _port) = start();
    let ask = |accept: &str| {
        raw(&address, &format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n"))
    };
    let open = ask("application/openmetrics-text; version=1.0.0");
    assert!(
        open.contains("content-type: application/openmetrics-text") && open.ends_with("# EOF\n"),
        "{open}"
    );
    let plain = ask("*/*");
    assert!(plain.contains("version=0.0.4") && !plain.contains("# EOF"), "{plain}");
}

#[test]
fn the_page_is_one_small_file_that_loads_nothing_else() {
    let (address, _port) = start();
    let (code, page) = Client::new(&address).page("/").unwrap();
    assert_eq!(code, 200);
    assert!(page.len() <= 150 << 10, "{} bytes", page.len());
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "<link rel=\"stylesheet", "//cdn"] {
        assert!(!page.contains(outside), "the page loads {outside}");
    }
    let answer = raw(&address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.contains("frame-ancestors 'none'"), "nobody may frame the button");
}

#[test]
fn something_else_behind_the_port_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"ERROR\r\n");
        }
    });
    let error = Client::new(&address).status().unwrap_err();
    assert!(matches!(&error, Error::Unreachable(text) if text.contains(&address)), "{error}");
}

fn raw(address: &str, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    // The server may close before it has read all of it.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
