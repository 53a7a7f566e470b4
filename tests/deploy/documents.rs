//! What the documentation says is so: its commands run, its names exist.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::balancers::{haproxy, wait_routed};
use crate::harness::PATIENCE;
use crate::machines::Machines;
use crate::setup;
use crate::support::{ROOT, command, installed, read, run};

/// The pages.
fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<(String, String)> = std::fs::read_dir(Path::new(ROOT).join("docs"))
        .expect("docs/")
        .map(|entry| entry.expect("a page").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".md"))
        .map(|name| (name.clone(), read(&format!("docs/{name}"))))
        .collect();
    pages.sort();
    pages
}

/// Fenced blocks: what stands behind the three ticks, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(words), None) => open = Some((words.trim().to_owned(), String::new())),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Each word that begins with this and goes on with such characters.
fn words(text: &str, prefix: &str, goes_on: fn(char) -> bool) -> BTreeSet<String> {
    text.match_indices(prefix)
        .map(|(at, _)| text[at + prefix.len()..].chars().take_while(|&c| goes_on(c)).collect::<String>())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Two machines, the page, and nothing else.
#[test]
fn getting_started_can_be_followed_command_by_command() {
    if !installed(&["nc", "apt-get"]) {
        return;
    }
    let Some(machines) = Machines::start() else { return };
    machines.copy_package();
    let (mut master, mut answers) = (0, Vec::new());
    let page = read("docs/getting-started.md");
    for (place, text) in blocks(&page) {
        let place = place.strip_prefix("sh").expect("only shell commands").trim().to_owned();
        // Who that is, is decided when somebody asks.
        if place == "master" {
            master = machines.master();
        }
        let hosts = match place.as_str() {
            "both" => vec![0, 1],
            "cache-a" => vec![0],
            "cache-b" => vec![1],
            "master" => vec![master],
            "survivor" => vec![1 - master],
            other => panic!("no machine is called {other}"),
        };
        for host in hosts {
            answers.push(machines[host].sh(&format!("cd /srv\n{text}")));
        }
        // The one step that the page describes in words.
        if text.contains("genkey") {
            let key = machines[0].sh("cat /etc/tandem/pair.key");
            machines[1].write("/etc/tandem/pair.key", &key);
        }
    }
    let said = |what: &str| answers.iter().any(|answer| answer.contains(what));
    assert!(said("link up, in sync"), "{answers:#?}");
    assert!(said("STORED"), "{answers:#?}");
    assert_eq!(answers.iter().filter(|answer| answer.contains("hello")).count(), 2, "{answers:#?}");
    assert_eq!(machines.master(), 1 - master, "the survivor keeps the role");
}

/// Blocks that are called `sh` are for the reader's shell, so they are run here; what is only to be looked at is `text`.
#[test]
fn the_commands_of_the_other_pages_run_on_a_pair() {
    if !installed(&["apt-get"]) {
        return;
    }
    let Some(machines) = Machines::start() else { return };
    machines.install();
    machines.pair_up();
    if machines.master() != 0 {
        machines[0].sh("tandemctl switchover");
    }
    let example = read("deploy/systemd/tandem.toml");
    machines[0].write("/etc/tandem/tandem.toml", &example);
    let mut ran = 0;
    for (page, text) in pages().into_iter().filter(|(page, _)| page != "getting-started.md") {
        for (_, commands) in blocks(&text).into_iter().filter(|(kind, _)| kind == "sh") {
            // As a test, a little load says as much as a lot.
            let commands = commands.replace("--duration 10 --fill", "--duration 1 --fill --keys 1000");
            let said = machines[0].sh(&format!("cd /srv\n{commands}"));
            eprintln!("{page}:\n{said}");
            ran += 1;
        }
    }
    assert!(ran >= 4, "{ran} blocks");
    assert!(machines[0].sh("cat /var/tmp/items").starts_with("tandem-dump 1 "));
}

/// A session counts its requests.
const COUNT: &str = "session_id('visitor'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";

#[test]
fn php_sessions_with_the_settings_of_the_page_outlive_the_master() {
    if !installed(&["php", "haproxy"]) {
        return;
    }
    if !run(Command::new("php").arg("-m")).lines().any(|module| module == "memcached") {
        eprintln!("SKIPPED: php-memcached is not installed");
        return;
    }
    let mut pair = setup().start();
    let master = pair.wait_paired();
    let (_haproxy, front) = haproxy("haproxy.cfg", &pair);
    wait_routed(front, &pair, master);
    let page = read("docs/clients.md");
    let (_, settings) = blocks(&page).into_iter().find(|(kind, _)| kind == "ini").expect("the settings");
    assert!(settings.contains("192.0.2.10:11211"));
    let settings = settings.replace("192.0.2.10:11211", &front.to_string());
    let visit = || {
        let mut php = Command::new("php");
        for line in settings.lines().filter(|line| !line.starts_with(';')) {
            php.arg("-d").arg(line.replace(" = ", "="));
        }
        php.args(["-d", "session.use_cookies=0", "-d", "session.cache_limiter=", "-r", COUNT]);
        run(&mut php)
    };
    assert_eq!(visit(), "1");
    assert_eq!(visit(), "2");
    pair.wait_converged(PATIENCE);
    pair.nodes[master].kill();
    wait_routed(front, &pair, 1 - master);
    assert_eq!(visit(), "3", "nobody is logged out by the failover");
    // The failed box returns, and is master again: still nobody is.
    pair.nodes[master].start();
    pair.wait_paired();
    pair.switch_over(|| ());
    wait_routed(front, &pair, master);
    assert_eq!(visit(), "4");
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut tests = String::new();
    for directory in ["tests/pair", "tests/server", "src", "replication/tests", "replication/src"] {
        let mut open = vec![Path::new(ROOT).join(directory)];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(
                    std::fs::read_dir(path).expect("a directory").map(|entry| entry.expect("a file").path()),
                );
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                tests += &std::fs::read_to_string(path).expect("a source file");
            }
        }
    }
    let page = read("docs/guarantees.md");
    let named: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| {
            name.matches('_').count() > 2 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        })
        // Those are metrics.
        .filter(|name| !name.starts_with("tandem_"))
        .collect();
    assert!(named.len() > 20, "the promises name their tests");
    for name in named {
        assert!(
            tests.contains(&format!("fn {name}(")),
            "docs/guarantees.md names a test that is not there: {name}"
        );
    }
}

#[test]
fn every_reason_of_a_change_of_roles_is_explained() {
    let table = read("replication/src/role.rs");
    let (rows, _) = table.split_once("mod tests").unwrap_or((&table, ""));
    let why: BTreeSet<&str> =
        rows.split("why: \"").skip(1).map(|rest| rest.split('"').next().unwrap_or_default()).collect();
    assert!(why.len() > 20, "{why:?}");
    let page = read("docs/operations.md");
    let (_, section) = page.split_once("\n## What happened?").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let told: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.trim_end_matches('`').split("`; `"))
        .collect();
    assert_eq!(why, told);
}

#[test]
fn every_alert_is_explained_and_every_explanation_has_an_alert() {
    let rules = words(&read("deploy/prometheus/tandem-alerts.yml"), "- alert: ", char::is_alphanumeric);
    let page = words(&read("docs/operations.md"), "### ", char::is_alphanumeric);
    assert_eq!(rules, page);
    let tested =
        words(&read("deploy/prometheus/tandem-alerts-test.yml"), "alertname=\"", char::is_alphanumeric);
    assert_eq!(rules, tested, "every alert is seen to fire");
}

#[test]
fn the_manual_pages_are_well_formed_and_have_every_flag() {
    if !installed(&["mandoc"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    run(Command::new(env!("CARGO_BIN_EXE_tandemctl")).arg("generate").arg(directory.path()));
    let pages = std::fs::read_dir(directory.path().join("man1")).expect("man1/");
    let pages: Vec<_> = pages.map(|page| page.expect("a page").path()).collect();
    assert!(pages.len() > 20, "{pages:?}");
    run(command("mandoc").args(["-Tlint", "-W", "error"]).args(&pages));
    let page = run(command("mandoc")
        .args(["-Tutf8", "-O", "width=200"])
        .arg(directory.path().join("man1/tandemd.1")));
    // Written twice, one over the other, is how a terminal is told of bold letters.
    let letters: Vec<char> = page.chars().collect();
    let plain: String = letters
        .iter()
        .enumerate()
        .filter(|&(at, &letter)| letter != '\u{8}' && letters.get(at + 1) != Some(&'\u{8}'))
        .map(|(_, letter)| letter)
        .collect();
    let help = run(Command::new(env!("CARGO_BIN_EXE_tandemd")).arg("-h"));
    for flag in words(&help, " --", |c| c.is_ascii_lowercase() || c == '-') {
        assert!(plain.contains(&format!("--{flag}")), "the page of tandemd has no --{flag}");
    }
}

#[test]
fn every_flag_and_verb_in_the_pages_exists() {
    let name = |c: char| c.is_ascii_lowercase() || c == '-';
    let flags = words(&run(Command::new(env!("CARGO_BIN_EXE_tandemd")).arg("-h")), "--", name);
    let control = |arguments: &[&str]| run(Command::new(env!("CARGO_BIN_EXE_tandemctl")).args(arguments));
    let control_flags = words(&control(&["completions", "bash"]), "--", name);
    for (page, text) in pages() {
        for verb in words(&text, "tandemctl ", |c| c.is_ascii_lowercase()) {
            control(&[verb.as_str(), "--help"]);
        }
        // Flags of other programs' commands are not ours to check.
        let ours = text.split('`').filter(|code| !code.contains("cargo") && !code.contains("systemctl"));
        for code in ours
            .filter(|code| code.starts_with("--") || code.contains("tandemd ") || code.contains("OPTIONS"))
        {
            for flag in words(code, " --", name).into_iter().chain(words(code, "`--", name)) {
                assert!(
                    flags.contains(&flag) || control_flags.contains(&flag),
                    "docs/{page} names --{flag}, which neither tandemd nor tandemctl has"
                );
            }
        }
    }
}

#[test]
fn every_link_and_file_in_the_pages_exists() {
    for (page, text) in pages() {
        for target in words(&text, "](", |c| c != ')') {
            if target.contains("://") {
                continue;
            }
            let file = target.split('#').next().unwrap_or_default();
            assert!(Path::new(ROOT).join("docs").join(file).exists(), "docs/{page} links to {target}");
        }
        for file in words(&text, "`deploy/", |c| c.is_ascii_alphanumeric() || "./_-".contains(c)) {
            assert!(Path::new(ROOT).join("deploy").join(&file).exists(), "docs/{page} names deploy/{file}");
        }
    }
}
