//! `top`: both nodes on a full screen. One thread asks the node every second; this one draws and listens
//! to keys. A node that does not answer stays on the screen with the reason.

mod screen;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tandemd::admin::client::Client;
use tandemd::admin::report::Status;

use crate::{FAILED, Failure, USAGE};
use screen::Screen;

/// Between two questions.
const PERIOD: Duration = Duration::from_secs(1);

/// What one question gave.
struct Answer {
    status: Result<Status, String>,
    /// Counters that only grow, by the names of `/metrics`.
    counters: HashMap<String, f64>,
    at: Instant,
}

pub(crate) fn run(client: &Client) -> Result<String, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err((
            USAGE,
            "top needs a terminal; for programs there is `tandemctl status --json`".to_owned(),
        ));
    }
    let (answers, news) = channel();
    let asks = client.clone();
    std::thread::spawn(move || ask(&asks, &answers));
    let mut terminal = ratatui::init();
    let result = show(&mut terminal, client, &news);
    ratatui::restore();
    result.map(|()| String::new()).map_err(|error| (FAILED, format!("the terminal: {error}")))
}

/// Until nobody listens any more.
fn ask(client: &Client, answers: &Sender<Answer>) {
    loop {
        let status = client.status().map_err(|error| error.to_string());
        let page = client.page("/metrics").map(|(_, text)| text).unwrap_or_default();
        let answer = Answer { status, counters: counters(&page), at: Instant::now() };
        if answers.send(answer).is_err() {
            return;
        }
        std::thread::sleep(PERIOD);
    }
}

/// `memcached_cmd_get_total 5`, without labels.
fn counters(page: &str) -> HashMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            let name = name.strip_prefix("memcached_")?.strip_suffix("_total")?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    client: &Client,
    news: &Receiver<Answer>,
) -> std::io::Result<()> {
    let mut screen = Screen::new(client.server());
    let (done, outcomes) = channel();
    loop {
        news.try_iter().for_each(|answer| screen.take(answer));
        outcomes.try_iter().for_each(|outcome: String| screen.say(outcome));
        terminal.draw(|frame| screen.draw(frame))?;
        if !event::poll(Duration::from_millis(100))? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc if !screen.is_asking() => return Ok(()),
            _ if is_interrupt => return Ok(()),
            KeyCode::Char('s') => screen.ask(),
            KeyCode::Char('y') if screen.is_asking() => {
                screen.say("switching over …".to_owned());
                let (client, done) = (client.clone(), done.clone());
                std::thread::spawn(move || {
                    let start = Instant::now();
                    let outcome = match client.switchover() {
                        Ok(()) => format!("switched over in {} ms", start.elapsed().as_millis()),
                        Err(error) => error.to_string(),
                    };
                    // Whoever asked may have gone.
                    let _ = done.send(outcome);
                });
            }
            _ if screen.is_asking() => screen.say("nothing was done".to_owned()),
            _ => {}
        }
    }
}
