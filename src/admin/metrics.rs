//! Counters and gauges in Prometheus' text format (version 0.0.4).

use std::fmt::Write as _;

use crate::admin::report::Status;

/// One metric: a family of samples with one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Letters, digits and underscores; those of counters end in `_total`.
    pub name: String,
    /// One sentence.
    pub help: String,
    /// What kind of number it is.
    pub kind: Kind,
    /// Its values: label pairs and a number.
    pub samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// What a metric's number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Metric {
    /// A number that only grows, without labels.
    pub fn counter(name: impl Into<String>, help: impl Into<String>, value: u64) -> Self {
        Self::plain(name.into(), help.into(), Kind::Counter, value as f64)
    }

    /// A number that goes up and down, without labels.
    pub fn gauge(name: impl Into<String>, help: impl Into<String>, value: f64) -> Self {
        Self::plain(name.into(), help.into(), Kind::Gauge, value)
    }

    fn plain(name: String, help: String, kind: Kind, value: f64) -> Self {
        Self { name, help, kind, samples: vec![(Vec::new(), value)] }
    }
}

/// The body of `GET /metrics`.
pub fn exposition(metrics: &[Metric]) -> String {
    let mut text = String::with_capacity(metrics.len() * 120);
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {} {}", metric.name, escaped(&metric.help, false));
        let _ = writeln!(text, "# TYPE {} {kind}", metric.name);
        for (labels, value) in &metric.samples {
            text.push_str(&metric.name);
            for (index, (label, content)) in labels.iter().enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                let _ = write!(text, "{before}{label}=\"{}\"", escaped(content, true));
            }
            if !labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {value}");
        }
    }
    text
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

/// Roles a dashboard can tell apart; any other is on its way to one of these.
const ROLES: [&str; 4] = ["master", "backup", "standalone", "transient"];

/// What the status says of node and pair, as metrics.
pub fn of_status(status: &Status) -> Vec<Metric> {
    let node = &status.node;
    let role = if ROLES.contains(&node.role.as_str()) { node.role.as_str() } else { "transient" };
    let states =
        ROLES.iter().map(|&name| (vec![("role", name.to_owned())], f64::from(u8::from(name == role))));
    let mut metrics = vec![
        Metric {
            name: "tandem_role".to_owned(),
            help: "1 for the role this node has.".to_owned(),
            kind: Kind::Gauge,
            samples: states.collect(),
        },
        Metric::gauge("tandem_ready", "1 while clients' requests are answered here.", truth(node.ready)),
        Metric::gauge("tandem_epoch", "Epoch of the master this node is or follows.", node.epoch as f64),
    ];
    let Some(link) = &status.link else { return metrics };
    metrics.extend([
        Metric::gauge("tandem_link_up", "1 while the nodes talk to each other.", truth(link.up)),
        Metric::gauge(
            "tandem_synced",
            "1 while the backup could take over without loss but for the lag.",
            truth(link.synced),
        ),
        Metric::gauge(
            "tandem_lag_records",
            "Changes the backup has not acknowledged.",
            link.lag_records as f64,
        ),
        Metric::gauge("tandem_lag_bytes", "Bytes of those changes.", link.lag_bytes as f64),
        Metric::gauge(
            "tandem_lag_seconds",
            "For how long the backup has been behind.",
            link.lag_ms as f64 / 1e3,
        ),
        Metric::gauge(
            "tandem_backlog_bytes",
            "Recent changes kept for a short absence.",
            link.backlog_bytes as f64,
        ),
        Metric::counter("tandem_full_copies_total", "Copies begun in full.", link.full_copies),
        Metric::counter(
            "tandem_partial_resyncs_total",
            "Streams continued without a copy.",
            link.partial_resyncs,
        ),
        Metric::counter("tandem_promotions_total", "Times this node became master.", link.promotions),
        Metric::counter("tandem_switchovers_total", "Planned handovers given or taken.", link.switchovers),
        Metric::counter("tandem_reconnects_total", "Times the link came up again.", link.reconnects),
        Metric::counter("tandem_changes_sent_total", "Changes sent to the peer.", link.changes_sent),
        Metric::counter(
            "tandem_changes_applied_total",
            "Changes applied from the peer.",
            link.changes_applied,
        ),
        Metric::counter(
            "tandem_proxied_requests_total",
            "Requests handed to the master.",
            link.proxied_requests,
        ),
        Metric::counter(
            "tandem_refused_strangers_total",
            "Connections sent away from the replication port.",
            link.refused_strangers,
        ),
    ]);
    if let Some(silent) = link.silent_ms {
        metrics.push(Metric::gauge(
            "tandem_peer_silent_seconds",
            "For how long the peer was not heard.",
            silent as f64 / 1e3,
        ));
    }
    metrics
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::{Link, Node};

    #[test]
    fn a_role_is_a_set_of_states_of_which_one_holds() {
        for (role, shown) in [("master", "master"), ("standalone", "standalone"), ("joining", "transient")] {
            let node = Node { role: role.to_owned(), ..Node::default() };
            let status = Status { node, link: Some(Link::default()), ..Status::default() };
            let text = exposition(&of_status(&status));
            let ones: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("tandem_role{") && line.ends_with(" 1"))
                .collect();
            assert_eq!(ones, [format!("tandem_role{{role=\"{shown}\"}} 1")]);
        }
    }

    #[test]
    fn labels_and_help_cannot_break_the_format() {
        let metric = Metric {
            name: "m".to_owned(),
            help: "two\nlines".to_owned(),
            kind: Kind::Gauge,
            samples: vec![(vec![("l", "a\"b\\c\nd".to_owned())], 1.5)],
        };
        assert_eq!(
            exposition(&[metric]),
            "# HELP m two\\nlines\n# TYPE m gauge\nm{l=\"a\\\"b\\\\c\\nd\"} 1.5\n"
        );
    }
}
