//! A headless Chromium, driven through chromedriver's HTTP interface.
#![allow(dead_code, unreachable_pub, reason = "tests and figures share this file, each uses a part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, wait_for};

/// Whether both programs are installed; says which is missing.
pub fn installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = ["chromium", "chromedriver"]
        .into_iter()
        .find(|program| !std::env::split_paths(&path).any(|directory| directory.join(program).exists()));
    if let Some(program) = missing {
        eprintln!("SKIPPED: {program} is not installed; see the list of packages in scripts/test.sh");
    }
    missing.is_none()
}

/// A window of a browser of its own; both end with it.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one.
    pub fn start() -> Self {
        let profile = tempfile::Builder::new().prefix("tandem-browser-").tempdir().expect("a directory");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver");
        let mut said = BufReader::new(driver.stdout.take().expect("a pipe"));
        let port = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("a line") > 0, "chromedriver ended");
            // "ChromeDriver was started successfully on port 12345."
            let number = line.rsplit_once(" port ").map(|(_, rest)| rest.trim().trim_end_matches('.'));
            if let Some(port) = number.and_then(|number| number.parse::<u16>().ok()).filter(|port| *port > 0)
            {
                break port;
            }
        };
        // Somebody has to read what it says from here on.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1180,900",
        ];
        let mut flags: Vec<String> = flags.map(str::to_owned).into();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let mut browser =
            Self { driver, address: format!("127.0.0.1:{port}"), session: String::new(), _profile: profile };
        let wish = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": flags}
        }}});
        let answer = browser.ask("POST", "/session", &wish);
        browser.session = answer["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.call("/url", &json!({"url": url}));
    }

    /// What a piece of JavaScript returns.
    pub fn run(&self, script: &str) -> Value {
        self.call("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text of an element that a selector finds.
    pub fn text(&self, selector: &str) -> String {
        let found = self.run(&format!("return (document.querySelector({selector:?}) || {{}}).innerText"));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the element says that.
    pub fn wait_text(&self, selector: &str, text: &str) {
        self.wait_any(selector, &[text]);
    }

    /// Waits until the element says one of these.
    pub fn wait_any(&self, selector: &str, texts: &[&str]) {
        wait_for(&format!("{selector} says one of {texts:?}"), PATIENCE, || {
            std::thread::sleep(Duration::from_millis(20));
            let shown = self.text(selector);
            texts.iter().any(|text| shown.contains(text)).then_some(())
        });
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub fn press(&self, keys: &str) {
        let keys: Vec<String> = keys.chars().map(String::from).collect();
        let strokes: Vec<Value> = keys
            .iter()
            .flat_map(|key| {
                [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
            })
            .collect();
        self.call("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}));
    }

    /// Clicks on an element.
    pub fn click(&self, selector: &str) {
        let found = self.call("/element", &json!({"using": "css selector", "value": selector}));
        let element = found.as_object().and_then(|map| map.values().next()).and_then(Value::as_str);
        let element = element.unwrap_or_else(|| panic!("no {selector} on the page"));
        self.call(&format!("/element/{element}/click"), &json!({}));
    }

    /// A command of the browser's own protocol.
    pub fn command(&self, name: &str, parameters: &Value) -> Value {
        self.call("/goog/cdp/execute", &json!({"cmd": name, "params": parameters}))
    }

    /// As it looks in the dark, or not.
    pub fn darken(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        self.command("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// As wide as that many points.
    pub fn resize(&self, width: u32, height: u32) {
        let phone = width < 600;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.command("Emulation.setDeviceMetricsOverride", &size);
    }

    /// A picture of the whole page, under `target/screenshots`.
    pub fn picture(&self, name: &str) -> PathBuf {
        let picture = self.command("Page.captureScreenshot", &json!({"captureBeyondViewport": true}));
        let bytes = STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join(format!("{name}.png"));
        std::fs::write(&path, &bytes).expect("a picture");
        path
    }

    fn call(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).expect("chromedriver");
        stream.set_read_timeout(Some(2 * PATIENCE)).expect("a socket");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .expect("chromedriver listens");
        // It keeps the connection open, whatever it is asked for: the length says where the answer ends.
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            assert!(stream.read_line(&mut head).expect("chromedriver answers") > 0, "it hung up");
            let line = head[start..].trim().to_ascii_lowercase();
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse().expect("a length");
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("the whole answer");
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {}", value["value"]["message"]);
        value["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask("DELETE", &format!("/session/{}", self.session), &json!({}));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
