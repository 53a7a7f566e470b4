//! The loop that writes roles to the labels of pods, with a real pair and a listener in place of
//! Kubernetes' API.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use crate::harness::PATIENCE;
use crate::setup;
use crate::support::{ROOT, Service, installed, run};

/// Takes requests to change an object; tells `PATH BODY` of each.
fn api() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).expect("a line") == 0 || line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: "));
            let length = length.and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            assert!(head.iter().any(|line| line == "Authorization: Bearer secret"), "{head:?}");
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
            reader.get_mut().write_all(answer.as_bytes()).expect("an answer");
            if tell.send(format!("{} {}", head[0], String::from_utf8_lossy(&body))).is_err() {
                return;
            }
        }
    });
    (format!("http://{address}"), told)
}

#[test]
fn the_label_of_the_master_follows_the_role() {
    if !installed(&["curl", "python3"])
        || !Command::new("/usr/bin/python3").args(["-c", "import yaml"]).status().is_ok_and(|s| s.success())
    {
        eprintln!("SKIPPED: curl or python3-yaml is not installed");
        return;
    }
    let script = "import sys,yaml\nfor d in yaml.safe_load_all(open(sys.argv[1])):\n  if d['kind']=='ConfigMap': print(d['data']['follow'])";
    let manifest = format!("{ROOT}/deploy/kubernetes/master-service.yaml");
    let follow = run(Command::new("/usr/bin/python3").args(["-c", script, &manifest]));
    let directory = tempfile::tempdir().expect("a directory");
    let (file, token) = (directory.path().join("follow"), directory.path().join("token"));
    std::fs::write(&file, follow).expect("a file");
    std::fs::write(&token, "secret").expect("a file");

    let mut pair = setup().start();
    let master = pair.wait_paired();
    let (api, told) = api();
    let pods: Vec<String> =
        (0..2).map(|index| format!("tandem-{index}={}", pair.nodes[index].admin_address())).collect();
    let mut command = Command::new("sh");
    command.arg(&file).env("API", api).env("NAMESPACE", "cache").env("TOKEN", &token);
    command.env("CACERT", "--http1.1").env("PODS", pods.join(" "));
    let _loop = Service::start(&mut command, directory.path(), "follow");
    let wait_for_label = |pod: usize, role: &str| {
        let path = format!("PATCH /api/v1/namespaces/cache/pods/tandem-{pod} HTTP/1.1 ");
        let body = format!("{{\"metadata\":{{\"labels\":{{\"tandem-role\":\"{role}\"}}}}}}");
        let mut heard = Vec::new();
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(request) if request == format!("{path}{body}") => return,
                Ok(request) => heard.push(request),
                Err(_) => panic!("tandem-{pod} was never labelled {role}, but {heard:?}"),
            }
        }
    };
    wait_for_label(master, "master");
    pair.nodes[master].kill();
    wait_for_label(1 - master, "master");
}
