//! Clients' requests on their way from a backup to its master.

mod support;

use bytes::BytesMut;
use support::node::{PATIENCE, TestNode, eventually};
use tandem_replication::handshake::Secret;
use tandem_replication::keys::SharedKeys;
use tandem_replication::proxy::{ProxyStream, Reply, decode_request, encode_done, encode_part};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn linked_pair() -> (TestNode, TestNode) {
    let (a, b) =
        TestNode::pair(|config| config.keys = SharedKeys::new(Secret::new(b"sesame".to_vec()).into()));
    eventually("linked", || a.status().proxy.is_some() && b.status().proxy.is_some());
    (a, b)
}

#[tokio::test]
async fn requests_and_answers_cross_whole_and_in_order() {
    let (a, b) = linked_pair();
    let target = a.status().proxy.clone().expect("linked");
    let mut client = ProxyStream::connect(&target).await.expect("the peer takes it");
    let server = b.proxied.recv_timeout(PATIENCE).expect("handed to the host");
    let mut server = server.attach().expect("a socket");
    let echo = tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            let read = server.read(&mut chunk).await.expect("open");
            if read == 0 {
                return;
            }
            buffer.extend_from_slice(&chunk[..read]);
            while let Some(request) = decode_request(&mut buffer, 8 << 20).expect("valid") {
                let mut output = BytesMut::new();
                encode_part(&request, &mut output);
                encode_done(request.len() - 1, &mut output);
                server.write_all(&output).await.expect("open");
                server.flush().await.expect("open");
            }
        }
    });
    for length in [1, 100, 5000, 3 << 20] {
        let request: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let (sent, answer) = {
            let mut answer = Vec::new();
            client.send(&request, false).await.expect("open");
            let executed = loop {
                match client.receive().await.expect("open") {
                    Reply::Part(part) => answer.extend_from_slice(&part),
                    Reply::Done(executed) => break executed,
                }
            };
            (executed, answer)
        };
        assert_eq!(sent, length - 1, "fewer may be executed than were sent");
        assert!(answer == request, "{length} bytes came back as {}", answer.len());
    }
    drop(client);
    echo.await.expect("it ends with the connection");
}

#[tokio::test]
async fn a_proxy_without_the_key_or_without_a_link_is_refused() {
    let (a, b) = linked_pair();
    let target = a.status().proxy.clone().expect("linked");
    let mut stranger = target.clone();
    stranger.keys = SharedKeys::new(Secret::new(b"guessed".to_vec()).into());
    let why = ProxyStream::connect(&stranger).await.expect_err("another key").to_string();
    assert!(why.contains("--psk-file"), "{why}");
    // A node it is not linked with, though that one has the key.
    let third = TestNode::start(support::node::Place::on("127.0.0.4"), Some(b.address), |config| {
        config.keys = SharedKeys::new(Secret::new(b"sesame".to_vec()).into());
    });
    third.wait("refused", |status| status.link_problem.is_some());
    let mut foreign = target.clone();
    foreign.address = third.address;
    let why = ProxyStream::connect(&foreign).await.expect_err("not linked").to_string();
    assert!(why.contains("no control connection"), "{why}");
    drop(a);
    drop(b);
}
