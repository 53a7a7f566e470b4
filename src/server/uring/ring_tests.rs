use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use bytes::Bytes;

use super::*;
use crate::command::Pages;

/// Scarce on purpose.
const SCARCE: Size = Size { submissions: 4, completions: 8, buffers: 2, buffers_max: 2 };
const PATIENCE: Duration = Duration::from_secs(20);

/// A ring, unless this machine does not allow any.
fn ring(size: Size) -> Option<Ring> {
    match Ring::new(size) {
        Ok(ring) => Some(ring),
        Err(error) => {
            println!("skipped: there is no io_uring here ({error})");
            None
        }
    }
}

/// Bytes that tell at which place of which stream they were.
fn pattern(stream: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at * 31 + stream * 101) as u8).collect()
}

fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come");
    }
}

#[test]
fn no_byte_is_lost_when_buffers_and_queues_do_not_suffice() {
    let Some(mut ring) = ring(SCARCE) else { return };
    const STREAMS: usize = 40;
    const LEN: usize = 30_000;
    let mut ours = Vec::new();
    for number in 0..STREAMS {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&pattern(number, LEN)).unwrap();
        ours.push(stream);
    }
    for (place, stream) in (0..).zip(&ours) {
        ring.receive(stream.as_fd(), place);
    }
    let mut got = vec![Vec::new(); STREAMS];
    let (mut closed, mut starved) = (0, 0);
    until(|| {
        ring.enter(Wait::For(Duration::from_millis(50))).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { place, lent, goes_on } => {
                    got[place as usize].extend_from_slice(ring.bytes(&lent));
                    ring.take_back(lent);
                    if !goes_on {
                        ring.receive(ours[place as usize].as_fd(), place);
                    }
                }
                Event::ReceptionEnded { place, why: ReceptionEnd::Starved } => {
                    starved += 1;
                    ring.receive(ours[place as usize].as_fd(), place);
                }
                Event::ReceptionEnded { why: ReceptionEnd::Closed, .. } => closed += 1,
                other => panic!("{other:?}"),
            }
        }
        closed == STREAMS
    });
    for (number, got) in got.iter().enumerate() {
        assert!(*got == pattern(number, LEN), "stream {number} differs");
    }
    assert!(starved > 0, "buffers were not scarce");
}

#[test]
fn no_failure_is_lost_when_there_are_more_than_the_queue_holds() {
    let Some(mut ring) = ring(SCARCE) else { return };
    const STREAMS: usize = 40;
    const LEN: usize = 300_000;
    let pairs: Vec<_> = (0..STREAMS).map(|_| UnixStream::pair().unwrap()).collect();
    for (place, (ours, _)) in (0..).zip(&pairs) {
        let mut out = Output::new();
        out.extend(&pattern(place as usize, LEN));
        ring.send(ours.as_fd(), place, &mut out);
    }
    ring.enter(Wait::No).unwrap();
    assert!(ring.overflows(), "the queue was not scarce");
    let mut sent = vec![None; STREAMS];
    until(|| {
        while let Some(event) = ring.next_event() {
            let Event::Unsent { place, out, sent: Ok(count) } = event else { panic!("{event:?}") };
            assert_eq!(out.len(), LEN - count);
            assert_eq!(sent[place as usize].replace(count), None);
        }
        assert_eq!(ring.take_sent_bytes(), 0, "none of them succeeded");
        ring.enter(Wait::No).unwrap();
        sent.iter().all(Option::is_some)
    });
    for (place, (_, theirs)) in pairs.iter().enumerate() {
        let mut got = vec![0; sent[place].unwrap()];
        let mut theirs = theirs;
        theirs.read_exact(&mut got).unwrap();
        assert!(got == pattern(place, LEN)[..got.len()], "stream {place} differs");
    }
}

/// Sends `out` as the data plane does, while the other end reads in its own time.
fn sent_whole(ring: &mut Ring, mut out: Output) -> Vec<u8> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let len = out.len();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; len];
        std::thread::sleep(Duration::from_millis(20));
        theirs.read_exact(&mut got).unwrap();
        got
    });
    let mut under_way = out.piece().is_none();
    if under_way {
        ring.send_patiently(ours.as_fd(), 3, out);
    } else {
        ring.send(ours.as_fd(), 3, &mut out);
        assert!(out.is_empty());
    }
    let mut bytes = 0;
    until(|| {
        ring.enter(Wait::For(Duration::from_millis(50))).unwrap();
        while let Some(event) = ring.next_event() {
            let (Event::Unsent { place, out, sent } | Event::Sent { place, out, sent }) = event else {
                panic!("{event:?}");
            };
            assert_eq!(place, 3);
            bytes += sent.unwrap();
            under_way = !out.is_empty();
            if under_way {
                ring.send_patiently(ours.as_fd(), 3, out);
            } else {
                ring.recycle(out);
            }
        }
        !under_way
    });
    bytes += ring.take_sent_bytes() as usize;
    assert_eq!(bytes, len);
    reader.join().unwrap()
}

#[test]
fn replies_arrive_whole_whatever_the_other_end_takes_at_once() {
    let Some(mut ring) = ring(SCARCE) else { return };
    for len in [1, 5_000, 3 << 20] {
        let mut out = Output::new();
        out.extend(&pattern(1, len));
        assert!(sent_whole(&mut ring, out) == pattern(1, len), "{len} bytes");
    }
    // Values by reference: in one message, in one that does not fit, and in more than one message.
    for (chunks, len) in [(3, 1_000), (20, 100_000), (200, 1_000)] {
        let mut out = Output::new();
        let value: Vec<Bytes> = (0..chunks).map(|chunk| pattern(chunk, len).into()).collect();
        out.extend(b"before");
        out.pages(&Pages::new(value));
        out.extend(b"behind");
        let expected = out.to_vec();
        assert!(sent_whole(&mut ring, out) == expected, "{chunks} chunks of {len} bytes");
    }
    assert!(ring.sends.slots.iter().all(Option::is_none), "every slot is free again");
}

#[test]
fn a_send_that_nobody_takes_can_be_ended() {
    let Some(mut ring) = ring(SCARCE) else { return };
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut out = Output::new();
    out.extend(&vec![0; 4 << 20]);
    let send = ring.send_patiently(ours.as_fd(), 1, out);
    let mut ended = None;
    let mut stopped = false;
    until(|| {
        ring.enter(Wait::For(Duration::from_millis(10))).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                // What fitted went.
                Event::Sent { out, sent: Ok(_), .. } if !stopped => {
                    let send = ring.send_patiently(ours.as_fd(), 1, out);
                    ring.stop_sending(1, send);
                    stopped = true;
                }
                Event::Sent { sent, .. } => ended = Some(sent),
                other => panic!("{other:?}"),
            }
        }
        ended.is_some()
    });
    assert_eq!(send, SendId(0));
    assert_eq!(ended.unwrap().unwrap_err().raw_os_error(), Some(libc::ECANCELED));
}

#[test]
fn a_ring_that_is_dropped_in_the_middle_lets_go_of_everything() {
    for _ in 0..5 {
        let Some(mut ring) = ring(SCARCE) else { return };
        let pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
        for (place, (ours, theirs)) in (0..).zip(&pairs) {
            ring.receive(ours.as_fd(), place);
            let mut out = Output::new();
            out.extend(&vec![0; 1 << 20]);
            ring.send_patiently(theirs.as_fd(), place, out);
        }
        ring.enter(Wait::No).unwrap();
        assert!(ring.under_way > 0);
        assert!(ring.let_go(), "the kernel keeps nothing");
        assert_eq!(ring.under_way, 0);
        drop(ring);
        // The sockets are as good as before: nobody reads from them any more but their owners.
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        ours.read_exact(&mut [0]).unwrap();
    }
}
