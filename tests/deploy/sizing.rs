//! What docs/sizing.md says of memory, against a node.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::process::Command;

use tandemd::admin::client::Client;
use tandemd::admin::report::Node;

use crate::harness::{PATIENCE, wait_for};
use crate::support::{Service, free_port, read};

/// Of the page's example, what is really stored.
const PART: u64 = 20;

/// A number as the page writes it.
fn number(text: &str) -> f64 {
    let digits: String = text.trim().chars().filter(|&c| c != ',').collect();
    digits.parse().unwrap_or_else(|_| panic!("docs/sizing.md: `{text}` is no number"))
}

/// The text between two others.
fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(start).unwrap_or_else(|| panic!("docs/sizing.md has no `{start}`"));
    rest.split_once(end).unwrap_or_else(|| panic!("docs/sizing.md has no `{end}` behind `{start}`")).0
}

/// A node without a peer.
struct Alone {
    _service: Service,
    _directory: tempfile::TempDir,
    port: u16,
    admin: Client,
}

impl Alone {
    fn start(megabytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [port, admin] = [free_port(), free_port()];
        let admin = format!("127.0.0.1:{admin}");
        let (memory, clients) = (megabytes.to_string(), port.to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandemd"));
        command.args([
            "-u",
            "root",
            "-l",
            "127.0.0.1",
            "-p",
            &clients,
            "-m",
            &memory,
            "-t",
            "2",
            "--admin",
            &admin,
        ]);
        let service = Service::start(&mut command, directory.path(), "tandemd");
        let admin = Client::new(admin);
        wait_for("an admin port", PATIENCE, || admin.status().ok());
        Self { _service: service, _directory: directory, port, admin }
    }

    /// Stores items of that size, in order, and says what the node is then.
    fn store(&self, items: Range<usize>, key: usize, value: usize) -> Node {
        const BATCH: usize = 200;
        let mut client = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        let mut answers = BufReader::new(client.try_clone().expect("a descriptor"));
        let (value, mut line) = ("v".repeat(value), String::new());
        for first in items.clone().step_by(BATCH) {
            let batch = first..items.end.min(first + BATCH);
            let one = |item| format!("set {item:0key$} 0 0 {}\r\n{value}\r\n", value.len());
            client.write_all(batch.clone().map(one).collect::<String>().as_bytes()).expect("it reads");
            for _ in batch {
                line.clear();
                answers.read_line(&mut line).expect("an answer");
                assert_eq!(line, "STORED\r\n");
            }
        }
        // What is told may be a tenth of a second old.
        std::thread::sleep(std::time::Duration::from_millis(150));
        self.admin.status().expect("a status").node
    }
}

#[test]
fn the_sizes_of_the_page_are_those_of_a_node() {
    let page = read("docs/sizing.md");
    let head = number(between(&page, "(key + value + ", ")"));
    let factor = number(between(&page, &format!("(key + value + {head}) × "), "\n"));
    let formula = |key: f64, value: f64| (key + value + head) * factor;
    let table = between(&page, "|---|---|---|---|---|\n", "\n\n");
    let mut rows = 0;
    for row in table.lines() {
        let cells: Vec<f64> = row.trim_matches('|').split('|').map(number).collect();
        let [key, value, items, measured, said] = cells[..] else { panic!("five numbers: {row}") };
        assert!((formula(key, value) - said).abs() < 1.0, "the formula says {}: {row}", formula(key, value));
        assert!(measured <= said && measured >= key + value, "{row}");
        let node = Alone::start(512);
        // The first items take what is only taken once; what counts is each further one.
        let first = (items as usize / 10).min(20_000);
        let more = (items as usize / 2).min(40_000);
        let before = node.store(0..first, key as usize, value as usize);
        let after = node.store(first..first + more, key as usize, value as usize);
        let bytes = |node: &Node| node.memory_bytes.expect("a number") as f64;
        let each = (bytes(&after) - bytes(&before)) / more as f64;
        println!("key {key} value {value}: {each:.1} bytes for each further item, {said:.1} by the formula");
        assert!(each <= said, "{each:.1} bytes each: docs/sizing.md promises {said:.1} at most");
        assert!(
            each >= key + value && each >= said * 0.6,
            "{each:.1} bytes each: docs/sizing.md is out of date"
        );
        rows += 1;
    }
    assert!(rows >= 8, "{rows} rows");
}

#[test]
fn the_example_of_the_page_fits_and_half_as_much_again_does_not() {
    let page = read("docs/sizing.md");
    let head = number(between(&page, "(key + value + ", ")"));
    let example = between(&page, "```text\n(40", "```");
    let sum = format!("(40{}", between(example, "", ")"));
    let [key, value] =
        [0, 1].map(|nth| number(sum.trim_start_matches('(').split('+').nth(nth).expect("a sum")));
    let each = number(between(example, "= ", " bytes per item"));
    assert!(((key + value + head) * 1.05 - each).abs() < 1.0, "{each}");
    let items = number(between(example, "per item\n", " ×"));
    let megabytes = number(between(example, "bytes = ", " MiB"));
    assert_eq!((items * each / 1_048_576.0).ceil(), megabytes);
    assert_eq!(number(between(example, "-m ", "\n")), megabytes);

    let node = Alone::start((megabytes as u64).div_ceil(PART));
    let part = items as usize / PART as usize;
    let full = node.store(0..part, key as usize, value as usize);
    assert_eq!((full.items, full.evictions), (Some(part as u64), Some(0)), "all of them fit");
    let over = node.store(part..part * 3 / 2, key as usize, value as usize);
    assert!(over.evictions > Some(0) && over.items < Some(part as u64 * 3 / 2), "{over:?}");
}
