//! What is on the screen: pure, from answers to lines.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};
use tandemd::admin::report::Status;
use tandemd::admin::table::{self, grouped};

use super::Answer;

/// Seconds that are remembered: wider than any terminal.
const HISTORY: usize = 600;

/// Of what is to be said of the pair, no more lines than these.
const STATE_LINES: usize = 6;

/// Commands, and the counters that together count them.
const COMMANDS: &[(&str, &[&str])] = &[
    ("get", &["cmd_get"]),
    ("set", &["cmd_set"]),
    ("delete", &["delete_hits", "delete_misses"]),
    ("incr", &["incr_hits", "incr_misses"]),
    ("decr", &["decr_hits", "decr_misses"]),
    ("touch", &["cmd_touch"]),
    ("cas", &["cas_hits", "cas_misses", "cas_badval"]),
    ("meta", &["cmd_meta"]),
    ("flush_all", &["cmd_flush"]),
    ("eviction", &["evictions"]),
];

/// One second.
#[derive(Clone, Debug, Default)]
struct Moment {
    requests: u64,
    lag_ms: u64,
    role: String,
}

pub(super) struct Screen {
    server: String,
    status: Option<Status>,
    /// Why there is no answer now.
    problem: Option<String>,
    last: Option<Answer>,
    rates: Vec<(&'static str, f64)>,
    history: VecDeque<Moment>,
    /// Whether a switchover waits for a yes.
    asking: bool,
    message: String,
}

impl Screen {
    pub(super) fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            status: None,
            problem: None,
            last: None,
            rates: Vec::new(),
            history: VecDeque::new(),
            asking: false,
            message: String::new(),
        }
    }

    pub(super) const fn is_asking(&self) -> bool {
        self.asking
    }

    pub(super) fn ask(&mut self) {
        self.asking = true;
        self.message =
            "Hand the master role to the other node? No error, no loss. y: yes, any other key: no".to_owned();
    }

    pub(super) fn say(&mut self, message: String) {
        self.asking = false;
        self.message = message;
    }

    pub(super) fn take(&mut self, answer: Answer) {
        self.rates = rates(self.last.as_ref(), &answer);
        let mut moment = Moment::default();
        match &answer.status {
            Ok(status) => {
                moment.requests = requests(status, &self.rates);
                moment.lag_ms = status.link.as_ref().map_or(0, |link| link.lag_ms);
                moment.role.clone_from(&status.node.role);
                self.status = Some(status.clone());
                self.problem = None;
            }
            Err(why) => self.problem = Some(why.clone()),
        }
        self.history.push_back(moment);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        self.last = Some(answer);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let (nodes, state) = self.nodes();
        // Where there is little room, the curves give way: what is wrong is seen first, then the roles.
        let is_low = frame.area().height < 34;
        let [title, state_area, upper, requests, lag, roles, footer] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(state.len().min(STATE_LINES) as u16),
            Constraint::Min(7),
            Constraint::Length(if is_low { 4 } else { 6 }),
            Constraint::Length(if is_low { 3 } else { 5 }),
            Constraint::Length(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(state), state_area);
        let [left, right] = Layout::horizontal([Constraint::Min(40), Constraint::Length(28)]).areas(upper);
        frame.render_widget(Line::from(format!("tandem · {}", self.server)).bold(), title);
        frame.render_widget(Paragraph::new(nodes).block(Block::bordered().title("nodes")), left);
        frame.render_widget(
            Paragraph::new(self.commands()).block(Block::bordered().title("commands/s here")),
            right,
        );
        let now = self.history.back().cloned().unwrap_or_default();
        let title = format!("requests/s · {}", grouped(now.requests));
        self.line(frame, requests, title, Color::Cyan, |moment| moment.requests);
        let title = format!("lag of the backup · {} ms", grouped(now.lag_ms));
        self.line(frame, lag, title, Color::Yellow, |moment| moment.lag_ms);
        frame.render_widget(
            Paragraph::new(self.roles(roles.width)).block(
                Block::bordered()
                    .title("role here: M master, B backup, S standalone, j on the way, - no answer"),
            ),
            roles,
        );
        let keys = if self.message.is_empty() { "q quit · s switch over" } else { &self.message };
        let style = if self.asking { Style::new().fg(Color::Black).bg(Color::Yellow) } else { Style::new() };
        frame.render_widget(Line::from(keys.to_owned()).style(style), footer);
    }

    /// The table of both nodes; and what is to be said of the pair, the worst first.
    fn nodes(&self) -> (Vec<Line<'static>>, Vec<Line<'static>>) {
        let problem =
            self.problem.as_ref().map(|why| Line::from(why.clone()).style(Style::new().fg(Color::Red)));
        let Some(status) = &self.status else {
            return (vec![Line::from("waiting for the first answer …")], problem.into_iter().collect());
        };
        let text = table::render(status, false);
        let is_state = |line: &&str| {
            line.contains(" because: ")
                || ["link ", "arbiter ", "warning: "].iter().any(|of| line.starts_with(of))
        };
        let (mut state, nodes): (Vec<&str>, Vec<&str>) =
            text.lines().filter(|line| !line.is_empty()).partition(is_state);
        state.sort_by_key(|line| match line.split_once(' ') {
            Some(("link", _)) => 0,
            Some(("warning:", _)) => 1,
            _ => 2,
        });
        let lines = |lines: Vec<&str>| lines.into_iter().map(coloured).collect::<Vec<_>>();
        (lines(nodes), problem.into_iter().chain(lines(state)).collect())
    }

    fn commands(&self) -> Vec<Line<'static>> {
        let mut rates = self.rates.clone();
        rates.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shown = rates.into_iter().filter(|(_, rate)| *rate >= 0.5);
        shown
            .map(|(name, rate)| Line::from(format!("{name:<10} {:>14}", grouped(rate.round() as u64))))
            .collect()
    }

    fn line(&self, frame: &mut Frame<'_>, area: Rect, title: String, colour: Color, of: fn(&Moment) -> u64) {
        let block = Block::bordered().title(title);
        let seen = usize::from(block.inner(area).width).min(self.history.len());
        let data: Vec<u64> = self.history.iter().skip(self.history.len() - seen).map(of).collect();
        frame.render_widget(
            Sparkline::default().data(&data).style(Style::new().fg(colour)).block(block),
            area,
        );
    }

    fn roles(&self, width: u16) -> Line<'static> {
        let seen = usize::from(width.saturating_sub(2)).min(self.history.len());
        let spans = self.history.iter().skip(self.history.len() - seen).map(|moment| {
            let (letter, colour) = letter(&moment.role);
            Span::styled(letter, Style::new().fg(colour))
        });
        Line::from_iter(spans)
    }
}

fn letter(role: &str) -> (&'static str, Color) {
    match role {
        "master" => ("M", Color::Green),
        "backup" => ("B", Color::Blue),
        "standalone" => ("S", Color::Green),
        "" => ("-", Color::Red),
        _ => ("j", Color::Yellow),
    }
}

/// A line of the table: the words that matter at a glance have colours.
fn coloured(line: &str) -> Line<'static> {
    let style = if line.starts_with("role") {
        Style::new().add_modifier(Modifier::BOLD)
    } else if line.starts_with("warning: ") {
        Style::new().fg(Color::Yellow)
    } else if line.starts_with("link DOWN") {
        Style::new().fg(Color::Red)
    } else if line.starts_with("link") {
        Style::new().fg(if line.contains("in sync") && !line.contains("not in sync") {
            Color::Green
        } else {
            Color::Yellow
        })
    } else {
        Style::new()
    };
    Line::from(line.to_owned()).style(style)
}

/// How often per second each command came between two answers.
fn rates(before: Option<&Answer>, after: &Answer) -> Vec<(&'static str, f64)> {
    let Some(before) = before else { return Vec::new() };
    let seconds = after.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
    let count = |answer: &Answer, names: &[&str]| -> Option<f64> {
        names.iter().map(|name| answer.counters.get(*name).copied()).sum()
    };
    COMMANDS
        .iter()
        .filter_map(|(name, counters)| {
            // A restart begins at 0 again.
            let grown = count(after, counters)? - count(before, counters)?;
            Some((*name, (grown / seconds).max(0.0)))
        })
        .collect()
}

/// Requests that the pair executes each second: those of its master.
fn requests(status: &Status, rates: &[(&'static str, f64)]) -> u64 {
    let peer = status.peer.as_ref();
    let told = |node: &tandemd::admin::report::Node| {
        node.reads_per_second.unwrap_or(0.0) + node.writes_per_second.unwrap_or(0.0)
    };
    let rate = match peer {
        Some(peer) if !status.is_master() => told(peer),
        _ => rates.iter().filter(|(name, _)| *name != "eviction").map(|(_, rate)| rate).sum(),
    };
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use tandemd::admin::report::{Link, Node};

    use super::*;

    fn answer(at: Instant, gets: f64, role: &str) -> Answer {
        let node = Node { role: role.to_owned(), address: "a:11211".to_owned(), ..Node::default() };
        let peer = Node { role: "backup".to_owned(), address: "b:11211".to_owned(), ..Node::default() };
        let link = Link { up: true, synced: true, lag_ms: 7, ..Link::default() };
        let status = Status { node, peer: Some(peer), link: Some(link), ..Status::default() };
        let page = format!("# HELP x\nmemcached_cmd_get_total {gets}\nmemcached_cmd_set_total 5\n");
        Answer { status: Ok(status), counters: super::super::counters(&page), at }
    }

    fn drawn(screen: &Screen) -> String {
        drawn_in(screen, 90, 34)
    }

    fn drawn_in(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn nodes_rates_and_history_are_on_the_screen() {
        let mut screen = Screen::new("127.0.0.1:11213");
        assert!(drawn(&screen).contains("waiting for the first answer"));
        let start = Instant::now();
        screen.take(answer(start, 100.0, "joining"));
        screen.take(answer(start + Duration::from_secs(2), 3100.0, "master"));
        let text = drawn(&screen);
        for wanted in [
            "role     master     backup",
            "get                 1,500",
            "requests/s · 1,500",
            "7 ms",
            "jM",
            "link up, in sync",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        assert!(!text.contains("set  "), "what nobody asks for is not shown\n{text}");
    }

    #[test]
    fn a_node_that_does_not_answer_stays_with_the_reason() {
        let mut screen = Screen::new("127.0.0.1:11213");
        let start = Instant::now();
        screen.take(answer(start, 100.0, "master"));
        let gone =
            Answer { status: Err("no admin port at a".to_owned()), counters: Default::default(), at: start };
        screen.take(gone);
        let text = drawn(&screen);
        assert!(
            text.contains("no admin port at a") && text.contains("M-") && text.contains("a:11211"),
            "{text}"
        );
    }

    #[test]
    fn what_is_wrong_is_seen_in_the_smallest_terminal() {
        let mut screen = Screen::new("127.0.0.1:11213");
        let mut seen = answer(Instant::now(), 100.0, "master");
        let status = seen.status.as_mut().unwrap();
        status.warnings = vec!["failovers are paused on the other node".to_owned()];
        status.node.role_reason = Some("lost the master".to_owned());
        screen.take(seen);
        let text = drawn_in(&screen, 80, 24);
        for wanted in [
            "link up, in sync",
            "warning: failovers are paused",
            "master because: lost the master",
            "role     master",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        assert!(text.contains("requests/s") && text.contains("q quit"), "{text}");
    }

    #[test]
    fn a_switchover_is_asked_for_twice() {
        let mut screen = Screen::new("127.0.0.1:11213");
        screen.ask();
        assert!(screen.is_asking() && drawn(&screen).contains("Hand the master role"));
        screen.say("nothing was done".to_owned());
        assert!(!screen.is_asking() && drawn(&screen).contains("nothing was done"));
    }
}
