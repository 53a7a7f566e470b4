//! Hit ratios over the wire: the same sequence of gets, each miss followed by a set, at equal `-m`.
//!
//! Gets go out 64 at a time, so a key that is missed twice within 64 is set twice; for every server alike.

use std::io::{Read, Write};
use std::net::TcpStream;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tandemd::bench::wire::{Event, Form, Replies, Requests};

use crate::plot;
use crate::process::Server;
use crate::table::markdown;

const MEGABYTES: u32 = 64;
const BATCH: usize = 64;

/// A sequence of keys: from the number of the request, a random source and a rank by Zipf's law.
struct Sequence {
    name: &'static str,
    /// Exponent and number of keys of the ranks; exponent 0 is uniform.
    ranks: (f64, f64),
    key: fn(request: u64, all: u64, random: &mut SmallRng, rank: u64) -> u64,
    size: fn(key: u64, request: u64, all: u64) -> usize,
    goal: f64,
}

const SEQUENCES: [Sequence; 10] = [
    Sequence { name: "zipf 0.99, mixed sizes", ranks: (0.99, 1e6), key: ranked, size: mixed, goal: 3.0 },
    Sequence { name: "zipf 0.8, mixed sizes", ranks: (0.8, 1e6), key: ranked, size: mixed, goal: 6.0 },
    Sequence { name: "zipf 1.1, mixed sizes", ranks: (1.1, 1e6), key: ranked, size: mixed, goal: 0.0 },
    Sequence { name: "tiny items", ranks: (0.99, 4e6), key: ranked, size: |_, _, _| 32, goal: 0.0 },
    Sequence {
        name: "one quarter scan",
        ranks: (0.9, 1e6),
        key: |request, _, random, rank| if random.random_ratio(1, 4) { (1 << 40) + request } else { rank },
        size: mixed,
        goal: 6.0,
    },
    Sequence {
        name: "one-hit wonders",
        ranks: (0.99, 1e6),
        key: |request, _, random, rank| if random.random_ratio(1, 3) { (1 << 40) + request } else { rank },
        size: mixed,
        goal: 0.0,
    },
    Sequence {
        name: "drifting popularity",
        ranks: (0.99, 1e6),
        key: |request, _, _, rank| rank + request / 20,
        size: mixed,
        goal: 1.0,
    },
    Sequence {
        name: "loop with noise",
        ranks: (0.0, 2e6),
        key: |request, _, random, rank| {
            if random.random_ratio(1, 5) { rank } else { (1 << 40) + request % 180_000 }
        },
        size: mixed,
        goal: 0.0,
    },
    Sequence {
        name: "sizes shift half way",
        ranks: (0.99, 1e6),
        key: |request, all, _, rank| if request < all / 2 { rank } else { (1 << 40) + rank },
        size: |_, request, all| if request < all / 2 { 100 } else { 1000 },
        goal: 0.0,
    },
    Sequence {
        name: "recent keys",
        ranks: (0.0, 2.0),
        key: |request, _, random, _| {
            let back = -(1.0 - random.random::<f64>()).ln() * 100_000.0;
            (request / 2 + 1_000_000).saturating_sub(back as u64)
        },
        size: mixed,
        goal: 0.0,
    },
];

fn ranked(_request: u64, _all: u64, _random: &mut SmallRng, rank: u64) -> u64 {
    rank
}

fn mixed(key: u64, _request: u64, _all: u64) -> usize {
    mixed_size(key)
}

/// Log-normal by key, 16 to 16,000 bytes, median 230.
pub(crate) fn mixed_size(key: u64) -> usize {
    let mut random = SmallRng::seed_from_u64(key);
    let sum: f64 = (0..12).map(|_| random.random::<f64>()).sum();
    ((230.0f64.ln() + 1.1 * (sum - 6.0)).exp() as usize).clamp(16, 16_000)
}

/// The table and the plot.
pub(crate) fn compare(requests: u64) -> (String, String) {
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for sequence in &SEQUENCES {
        let [ours, theirs] = [Server::tandem(MEGABYTES), Server::memcached(MEGABYTES)].map(|server| {
            let ratio = replay(&server, sequence, requests);
            (100.0 * ratio, server.usage().resident_bytes as f64 / f64::from(1 << 20))
        });
        rows.push(vec![
            sequence.name.to_owned(),
            format!("{:.2} %", ours.0),
            format!("{:.2} %", theirs.0),
            format!("{:+.2}", ours.0 - theirs.0),
            format!("≥ {:+}", sequence.goal),
            format!("{:.0} / {:.0}", ours.1, theirs.1),
        ]);
        bars.push((sequence.name.to_owned(), ours.0, Some(theirs.0)));
        println!("{}", rows[rows.len() - 1].join(" | "));
    }
    let head = ["sequence", "Tandem", "memcached", "points", "must", "resident MiB"];
    (markdown(&head, &rows), plot::bars("Hits in percent at -m 64", ["Tandem", "memcached"], &bars))
}

/// The hit ratio of the second half.
fn replay(server: &Server, sequence: &Sequence, requests: u64) -> f64 {
    let mut stream = TcpStream::connect(server.address()).expect("a server");
    stream.set_nodelay(true).expect("a socket option");
    let words = Requests::new(Form::Text, "trace-", 0);
    let mut random = SmallRng::seed_from_u64(7);
    let ranks = Zipf::new(sequence.ranks.1, sequence.ranks.0).expect("a distribution");
    let value = vec![b'v'; 16_000];
    let (mut hits, mut counted) = (0u64, 0u64);
    let (mut out, mut keys) = (Vec::new(), Vec::new());
    let mut request = 0;
    while request < requests {
        out.clear();
        keys.clear();
        for at in request..requests.min(request + BATCH as u64) {
            let rank = ranks.sample(&mut random) as u64;
            let key = (sequence.key)(at, requests, &mut random, rank);
            words.get(&mut out, std::iter::once(key));
            keys.push((key, at));
        }
        let found = exchange(&mut stream, &out, keys.len());
        out.clear();
        let mut sets = 0;
        for (&(key, at), found) in keys.iter().zip(&found) {
            if at >= requests / 2 {
                counted += 1;
                hits += u64::from(*found);
            }
            if !found {
                words.set(&mut out, key, &value[..(sequence.size)(key, at, requests)]);
                sets += 1;
            }
        }
        exchange(&mut stream, &out, sets);
        request += keys.len() as u64;
    }
    hits as f64 / counted as f64
}

/// Sends requests and reads as many answers: for each whether a value came.
fn exchange(stream: &mut TcpStream, requests: &[u8], count: usize) -> Vec<bool> {
    stream.write_all(requests).expect("a server that reads");
    let mut replies = Replies::default();
    let (mut found, mut value) = (Vec::with_capacity(count), false);
    let (mut bytes, mut start) = (Vec::new(), 0);
    let mut buffer = [0; 64 << 10];
    while found.len() < count {
        let (used, event) = replies.next(&bytes[start..]).expect("an answer");
        start += used;
        match event {
            Some(Event::Value) => value = true,
            // A store that the server refuses leaves a miss, as it does for anybody.
            Some(Event::End | Event::Stored | Event::Failed(_)) => found.push(std::mem::take(&mut value)),
            None => {
                bytes.drain(..start);
                start = 0;
                let count = stream.read(&mut buffer).expect("an answer");
                assert!(count > 0, "the server closed the connection");
                bytes.extend_from_slice(&buffer[..count]);
            }
        }
    }
    found
}
