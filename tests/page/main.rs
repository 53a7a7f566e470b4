//! The status page in a real browser, before a real pair: it loads, shows the truth, survives what
//! happens to the pair, and switches over. What it looks like is kept in `target/screenshots`.
//!
//! Without `chromium` and `chromedriver` (Debian: `chromium-driver`) these tests say so and pass.
#![allow(unreachable_pub, reason = "nothing outside uses a test")]

mod browser;
#[path = "../pair/cables.rs"]
mod cables;
#[path = "../pair/harness.rs"]
mod harness;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use browser::Browser;
use cables::Cables;
use harness::{PATIENCE, Pair, Setup, wait_for};

const TOKEN: &str = "token-of-these-tests";

/// A pair whose admin ports ask for a token.
fn setup() -> (Setup, tempfile::NamedTempFile) {
    let mut token = tempfile::NamedTempFile::new().expect("a file");
    token.write_all(TOKEN.as_bytes()).expect("a file");
    let setup = Setup::new(env!("CARGO_BIN_EXE_tandemd"))
        .flag("--admin-token-file")
        .flag(token.path().to_str().expect("a path"));
    (setup, token)
}

fn url(pair: &Pair, node: usize) -> String {
    format!("http://{}/", pair.nodes[node].admin_address())
}

/// The roles as the page shows them: this node's and the other's.
fn wait_roles(browser: &Browser, here: &str, there: &str) {
    browser.wait_text("#node .badge", here);
    browser.wait_text("#peer .badge", there);
}

/// Reads and writes through a node, some of each second, until it is dropped.
struct Load {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn through(pair: &Pair, node: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (mut client, end) = (pair.nodes[node].client(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut number = 0_u32;
            while !end.load(Ordering::Relaxed) {
                // More in some seconds than in others: there shall be something to see.
                for _ in 0..20 + (number / 20 % 30) {
                    let _ends = client.set(&format!("key-{}", number % 5000), &[7; 900]);
                    let _ends = client.get(&format!("key-{}", number * 7 % 6000));
                    number += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The page threw nothing and loaded nothing from elsewhere.
fn assert_clean(browser: &Browser, pair: &Pair, node: usize) {
    let origin = url(pair, node);
    let loaded = browser.run("return performance.getEntriesByType('resource').map(e => e.name)");
    for name in loaded.as_array().expect("a list") {
        let name = name.as_str().expect("a name");
        assert!(name.starts_with(&origin) || name.starts_with("data:"), "the page loads {name}");
    }
    let wide = browser.run("return document.documentElement.scrollWidth <= innerWidth");
    assert_eq!(wide, true, "the page is wider than the window");
}

#[test]
fn the_page_shows_the_roles_in_every_light_and_size() {
    if !browser::installed() {
        return;
    }
    let (setup, _token) = setup();
    let mut pair = setup.start();
    let master = pair.wait_synced();
    let _load = Load::through(&pair, master);
    let browser = Browser::start();
    browser.open(&url(&pair, master));
    wait_roles(&browser, "MASTER", "BACKUP");
    browser.wait_text("#overall", "In sync");
    wait_for("some seconds of curves", PATIENCE, || {
        let drawn = browser.run("return columns.node.filter(c => c.reads > 0).length");
        (drawn.as_u64() >= Some(8)).then_some(())
    });
    // Each chart says in words what it shows.
    let labels = browser.run("return [...document.querySelectorAll('figure svg')].map(e => e.ariaLabel)");
    let labels = labels.as_array().expect("a list");
    assert_eq!(labels.len(), 6);
    assert!(labels.iter().all(|label| label.as_str().is_some_and(|label| label.len() > 20)), "{labels:?}");
    assert!(browser.text("#events").contains("master"), "{}", browser.text("#events"));
    let paint = browser.run(
        "return performance.getEntriesByName('first-contentful-paint').map(e => Math.round(e.startTime))[0]",
    );
    println!("first contentful paint: {paint} ms");

    browser.resize(1180, 900);
    for (dark, name) in [(false, "light"), (true, "dark")] {
        browser.darken(dark);
        browser.picture(name);
        assert_clean(&browser, &pair, master);
    }
    browser.darken(false);
    browser.resize(390, 844);
    browser.picture("phone");
    assert_clean(&browser, &pair, master);

    // From the other side it is the same pair.
    browser.resize(1180, 900);
    browser.open(&url(&pair, 1 - master));
    wait_roles(&browser, "BACKUP", "MASTER");
    browser.picture("backup");

    // The node itself goes away: the page says so, and goes on when it is back.
    pair.nodes[1 - master].kill();
    browser.wait_text("#overall", "does not answer");
    browser.picture("lost");
    pair.nodes[1 - master].start();
    wait_roles(&browser, "BACKUP", "MASTER");
    browser.wait_text("#overall", "In sync");
}

#[test]
fn a_failover_is_seen_while_the_page_is_open() {
    if !browser::installed() {
        return;
    }
    let (setup, _token) = setup();
    let mut pair = setup.start();
    let master = pair.wait_synced();
    let backup = 1 - master;
    let browser = Browser::start();
    browser.resize(1180, 900);
    browser.open(&url(&pair, backup));
    wait_roles(&browser, "BACKUP", "MASTER");
    browser.wait_text("#overall", "In sync");

    pair.nodes[master].kill();
    wait_roles(&browser, "MASTER", "UNREACHABLE");
    browser.wait_text("#overall", "No second copy");
    browser.wait_text("#events", "lost the master");
    let disabled = browser.run("return document.getElementById('switchover').disabled");
    assert_eq!(disabled, true, "nobody is there to switch over to");
    browser.wait_text("#hint", "Start the other one");
    browser.picture("dead-peer");
    assert_clean(&browser, &pair, backup);

    pair.nodes[master].start();
    wait_roles(&browser, "MASTER", "BACKUP");
    browser.wait_text("#overall", "In sync");
}

#[test]
fn the_button_switches_over_with_the_keyboard_and_the_token() {
    if !browser::installed() {
        return;
    }
    let (setup, _token) = setup();
    let pair = setup.start();
    let master = pair.wait_synced();
    let browser = Browser::start();
    browser.resize(1180, 900);
    browser.open(&url(&pair, master));
    wait_roles(&browser, "MASTER", "BACKUP");
    wait_for("the button can be used", PATIENCE, || {
        (browser.run("return document.getElementById('switchover').disabled") == false).then_some(())
    });

    // The first thing the tabulator reaches is the button; Enter opens the question.
    const TAB: &str = "\u{e004}";
    const ENTER: &str = "\u{e007}";
    browser.press(TAB);
    assert_eq!(browser.run("return document.activeElement.id"), "switchover");
    browser.press(ENTER);
    browser.wait_text("#dialog-title", "Switch over?");
    browser.picture("question");
    assert_eq!(browser.run("return document.activeElement.id"), "token");
    browser.press("wrong-token");
    browser.press(ENTER);
    browser.wait_text("#outcome", "not the token");
    assert_eq!(pair.paired(), Some(master), "nothing has changed");

    browser.run("document.getElementById('token').value = ''; document.getElementById('token').focus()");
    browser.press(TOKEN);
    browser.press(ENTER);
    browser.wait_text("#outcome", "Done");
    browser.click("#cancel");
    wait_roles(&browser, "BACKUP", "MASTER");
    assert_eq!(wait_for("the roles have changed", PATIENCE, || pair.paired()), 1 - master);
    browser.wait_text("#events", "handing over");
    browser.picture("switched");
}

/// Over a cable so thin that there is time to look.
#[test]
fn a_copy_is_shown_with_its_progress() {
    const ITEMS: usize = 6000;
    if !browser::installed() {
        return;
    }
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair(Setup::new(env!("CARGO_BIN_EXE_tandemd")));
    pair.start();
    let master = pair.wait_synced();
    let backup = 1 - master;
    pair.nodes[backup].kill();
    let mut client = pair.nodes[master].client();
    for number in 0..ITEMS {
        client.set(&format!("key-{number}"), &[7; 8000]).expect("a set");
    }
    let browser = Browser::start();
    browser.resize(1180, 900);
    browser.open(&url(&pair, master));
    wait_roles(&browser, "MASTER", "UNREACHABLE");
    if !cables.narrow("80mbit") {
        eprintln!("not tried: this kernel has no queue that is narrow (sch_tbf)");
        return;
    }
    pair.nodes[backup].start();
    browser.wait_text("#overall", "Copying");
    // How far it is, and the words below it; nothing once it is over.
    let progress = || {
        browser.run("refresh()");
        let shown = browser.run(
            "const bar = document.querySelector('#link progress'); \
             return bar.hidden ? null : [bar.value, document.querySelector('#link .detail').textContent]",
        );
        Some((shown[0].as_f64()?, shown[1].as_str()?.to_owned()))
    };
    let (first, words) =
        wait_for("the beginning of the copy", PATIENCE, || progress().filter(|(share, _)| *share > 0.1));
    assert!(words.contains("of about 6,000 items"), "{words}");
    browser.picture("syncing");
    wait_for("more of the copy, or its end", PATIENCE, || {
        progress().is_none_or(|(share, _)| share > first + 0.1).then_some(())
    });
    assert_clean(&browser, &pair, master);
    cables.mend();
    browser.wait_text("#overall", "In sync");
    wait_roles(&browser, "MASTER", "BACKUP");
    browser.wait_text("#events", "copy is complete");
    assert_eq!(pair.nodes[backup].items(), Some(ITEMS as u64));
}

/// The cable between the nodes is cut, and both serve: each page says what its node can know, and in the
/// end what became of it.
#[test]
fn a_split_is_told_by_both_pages_and_its_end_too() {
    if !browser::installed() {
        return;
    }
    let Some(cables) = Cables::new() else {
        eprintln!("not tried: only root can make network namespaces");
        return;
    };
    let mut pair = cables.pair(Setup::new(env!("CARGO_BIN_EXE_tandemd")));
    pair.start();
    let old = pair.wait_synced();
    let mut clients = [0, 1].map(|node| pair.nodes[node].client());
    clients[old].set("both", b"before").expect("a set");
    pair.wait_converged(PATIENCE);
    let browsers = [Browser::start(), Browser::start()];
    for (node, browser) in browsers.iter().enumerate() {
        browser.resize(1180, 900);
        browser.open(&url(&pair, node));
    }
    wait_roles(&browsers[old], "MASTER", "BACKUP");
    wait_roles(&browsers[1 - old], "BACKUP", "MASTER");

    cables.cut();
    for (node, browser) in browsers.iter().enumerate() {
        wait_roles(browser, "MASTER", "UNREACHABLE");
        browser.wait_text("#overall", "the other node may serve, too");
        browser.wait_text("#banners", "if it lives behind a cut network");
        browser.wait_text("#link .state", "silent for");
        browser.wait_text("#events", "if it lives behind a cut network");
        browser.picture(["split-a", "split-b"][node]);
        assert_clean(browser, &pair, node);
    }
    for (node, client) in clients.iter_mut().enumerate() {
        let key = format!("side-{node}");
        wait_for("each side takes writes", PATIENCE, || {
            (client.set(&key, b"x").is_ok() && client.set("both", b"x").is_ok()).then_some(())
        });
    }

    cables.mend();
    assert_eq!(pair.wait_paired(), 1 - old, "the higher epoch keeps the role");
    wait_roles(&browsers[1 - old], "MASTER", "BACKUP");
    wait_roles(&browsers[old], "BACKUP", "MASTER");
    browsers[1 - old].wait_text("#events", "Both nodes had served");
    browsers[old].wait_text("#events", "two masters met");
    for (node, browser) in browsers.iter().enumerate() {
        browser.wait_text("#overall", "In sync");
        wait_for("the banner is gone", PATIENCE, || browser.text("#banners").is_empty().then_some(()));
        browser.picture(["healed-a", "healed-b"][node]);
    }
}

#[test]
fn a_peer_that_is_silent_is_not_called_dead() {
    if !browser::installed() {
        return;
    }
    let (setup, _token) = setup();
    let pair = setup.start();
    let master = pair.wait_synced();
    let browser = Browser::start();
    browser.resize(1180, 900);
    browser.open(&url(&pair, 1 - master));
    wait_roles(&browser, "BACKUP", "MASTER");
    pair.nodes[master].freeze();
    wait_roles(&browser, "MASTER", "UNREACHABLE");
    browser.wait_text("#overall", "the other node may serve, too");
    browser.wait_text("#banners", "if it lives behind a cut network");
    browser.picture("split");
    assert_clean(&browser, &pair, 1 - master);
    pair.nodes[master].thaw();
    wait_roles(&browser, "MASTER", "BACKUP");
    assert_eq!(browser.text("#banners"), "");
}

#[test]
fn a_node_without_a_peer_has_a_page_of_its_own() {
    if !browser::installed() {
        return;
    }
    let (setup, _token) = setup();
    let mut pair = setup.pair();
    let port = pair.nodes[0].ports[2];
    let mut alone = std::process::Command::new(env!("CARGO_BIN_EXE_tandemd"))
        .args([
            "-l",
            "127.0.0.2",
            "-p",
            "0",
            "-u",
            "root",
            "-m",
            "16",
            "--admin",
            &format!("127.0.0.2:{port}"),
        ])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("tandemd");
    pair.quiet = true;
    let browser = Browser::start();
    browser.resize(1180, 900);
    wait_for("the admin port", PATIENCE, || pair.nodes[0].admin().page("/healthz").ok());
    browser.open(&url(&pair, 0));
    browser.wait_text("#node .badge", "ALONE");
    browser.wait_text("#overall", "Without a peer");
    assert_eq!(browser.run("return document.getElementById('peer').checkVisibility()"), false);
    assert_eq!(browser.run("return document.getElementById('switchover').checkVisibility()"), false);
    browser.picture("alone");
    assert_clean(&browser, &pair, 0);
    // What goes back and forth a hundred times is not a hundred lines.
    let told = browser.run(
        "const event = (to, at_ms) => ({ kind: 'role', from: '', to, text: 'why', epoch: 1, at_ms });\
         const list = [event('x', 12)];\
         for (let n = 5; n > 0; n--) list.push(event('doubt', 2 * n), event('master', 2 * n - 1));\
         return fold(list).map(e => `${e.to} ${e.times} ${e.since}`).join()",
    );
    assert_eq!(told, "x 1 12,doubt 5 2,master 5 1");
    alone.kill().expect("it runs");
    alone.wait().expect("it ends");
}
