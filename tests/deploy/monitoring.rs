//! Prometheus scrapes a real pair: rules, metrics, and every query of the dashboard.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tandemd::admin::client::Client;

use crate::harness::{PATIENCE, wait_for};
use crate::setup;
use crate::support::{ROOT, Service, command, free_port, installed, read, run};

#[test]
fn the_alert_rules_are_valid_and_fire_when_they_should() {
    if !installed(&["promtool"]) {
        return;
    }
    let promtool = || {
        let mut promtool = command("promtool");
        promtool.current_dir(format!("{ROOT}/deploy/prometheus"));
        promtool
    };
    run(promtool().args(["check", "rules", "tandem-alerts.yml"]));
    run(promtool().args(["check", "config", "scrape.yml"]));
    run(promtool().args(["test", "rules", "tandem-alerts-test.yml"]));
}

#[test]
fn the_metrics_are_what_prometheus_expects() {
    if !installed(&["promtool"]) {
        return;
    }
    let pair = setup().start();
    for node in &pair.nodes {
        let (code, text) = node.admin().page("/metrics").expect("the metrics");
        assert_eq!(code, 200);
        assert!(text.len() <= 64 << 10, "{} bytes", text.len());
        let mut promtool = command("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool");
        promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("a pipe");
        let output = promtool.wait_with_output().expect("promtool");
        // 1 is what it cannot read, 3 is advice about names.
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && words.is_empty(), "{}: {words}", output.status);
    }
}

/// `GET path?query=…` of Prometheus' interface.
fn ask(prometheus: &Client, path: &str, query: &str) -> Option<Value> {
    let mut url = format!("/api/v1/{path}?query=");
    for byte in query.bytes() {
        // Writing to a string cannot fail.
        let _ = write!(url, "%{byte:02X}");
    }
    let (code, body) = prometheus.page(&url).ok()?;
    let answer: Value = serde_json::from_str(&body).ok()?;
    assert_eq!(code, 200, "{query}: {answer}");
    Some(answer["data"].clone())
}

/// How many of the query's results are numbers.
fn results(prometheus: &Client, query: &str) -> usize {
    let Some(data) = ask(prometheus, "query", query) else { return 0 };
    let result = data["result"].as_array().cloned().unwrap_or_default();
    result.iter().filter(|series| series["value"][1] != "NaN").count()
}

/// Title and expression of each query of the dashboard, for the pair `sessions`.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).expect("JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert!(!targets.is_empty() || panel["type"] == "row", "{title} asks nothing");
        for target in targets {
            queries.push((title.to_owned(), target["expr"].as_str().expect("an expression").to_owned()));
        }
    }
    let filled = |text: String| text.replace("$pair", "sessions").replace("$__rate_interval", "10s");
    queries.into_iter().map(|(title, query)| (title, filled(query))).collect()
}

#[test]
fn every_query_of_the_dashboard_returns_data() {
    if !installed(&["prometheus"]) {
        return;
    }
    let mut pair = setup().start();
    let master = pair.wait_paired();
    let text = read("deploy/prometheus/scrape.yml")
        .replace("192.0.2.11:11213", &pair.nodes[0].admin_address().to_string())
        .replace("192.0.2.12:11213", &pair.nodes[1].admin_address().to_string())
        .replace("_interval: 15s", "_interval: 1s")
        .replace("scrape_timeout: 5s", "scrape_timeout: 1s")
        .replace("tandem-alerts.yml", &format!("{ROOT}/deploy/prometheus/tandem-alerts.yml"));
    let config = pair.directory().join("prometheus.yml");
    std::fs::write(&config, text).expect("a file");
    let address = format!("127.0.0.1:{}", free_port());
    let data = pair.directory().join("prometheus");
    let mut command = command("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address={address}"));
    let service = Service::start(&mut command, pair.directory(), "prometheus-log");
    let prometheus = Client::new(address);

    // Something to see: hits and misses, through both nodes.
    let mut clients = pair.nodes.each_ref().map(|node| node.client());
    let mut number = 0;
    let mut pending = queries();
    wait_for("data for each query of the dashboard", PATIENCE, || {
        for client in &mut clients {
            client.set(&format!("key-{number}"), b"value").expect("a set");
            client.get(&format!("key-{number}")).expect("a get");
            client.get("nobody").expect("a get");
            number += 1;
        }
        std::thread::sleep(Duration::from_millis(50));
        pending.retain(|(_, query)| results(&prometheus, query) == 0);
        (pending.is_empty() || number > 1000).then_some(())
    });
    assert!(pending.is_empty(), "no data for {pending:#?}\n{}", service.log());
    let (_, known) = prometheus.page("/api/v1/metadata?metric=tandem_role").expect("an answer");
    assert!(known.contains("\"stateset\""), "{known}");

    // The alerts see this pair: one of them begins to wait when its node is gone.
    let alerting =
        |name: &str| results(&prometheus, &format!("ALERTS{{alertname=\"{name}\",pair=\"sessions\"}}"));
    assert_eq!(alerting("TandemNodeDown"), 0);
    pair.nodes[1 - master].kill();
    wait_for("TandemNodeDown and TandemLinkDown are pending", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(100));
        (alerting("TandemNodeDown") == 1 && alerting("TandemLinkDown") == 1).then_some(())
    });
    assert_eq!(alerting("TandemNoMaster"), 0, "the other one serves");
}
