//! The admin port over real sockets.

use std::io::{Read as _, Write as _};
use std::sync::Mutex;

use super::*;
use crate::admin::BoxFuture;
use crate::admin::client::{Client, Error};
use crate::admin::metrics::Metric;
use crate::admin::report::{Link, Node, Status};

struct Source {
    role: Mutex<String>,
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
        vec![Metric::counter("memcached_cmd_get_total", "Gets.", 7)]
    }

    fn switchover(&self) -> BoxFuture<'_, Result<(), String>> {
        "backup".clone_into(&mut self.role.lock().unwrap());
        Box::pin(std::future::ready(Ok(())))
    }

    fn promote(&self, force: bool) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(if force { Ok(()) } else { Err("the peer may be alive".to_owned()) }))
    }
}

/// A running admin port on its own thread, as in the product.
fn start() -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (running, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _running = running;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let source = Source { role: Mutex::new("master".to_owned()) };
            serve(TcpListener::from_std(listener).unwrap(), Arc::new(source)).await;
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
fn idle_connections_do_not_keep_others_out() {
    let (address, _port) = start();
    let idle: Vec<_> =
        (0..2 * CONNECTIONS_MAX).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    // Answered once the idle ones ran out of their time, well within the client's own.
    assert_eq!(Client::new(&address).page("/healthz").unwrap().0, 200);
    drop(idle);
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
