//! Counters, gauges and histograms in Prometheus' text format (version 0.0.4) and in OpenMetrics (1.0.0).

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
    pub samples: Vec<(Labels, f64)>,
    /// The values of a histogram.
    pub distributions: Vec<Distribution>,
}

/// Names and contents of labels.
pub type Labels = Vec<(&'static str, String)>;

/// How often values of each size occurred.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Which of the histograms of that name.
    pub labels: Labels,
    /// Upper bounds, growing, and how many values were not above them.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all values.
    pub sum: f64,
    /// How many values there are.
    pub count: u64,
}

/// What a metric's number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How values are distributed.
    Histogram,
    /// Of some states, each a sample whose label has the metric's own name, one is 1. A gauge, where that is
    /// not known.
    StateSet,
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own.
    Text,
    /// The standard that came of it: the same but for the names of counters' families and the end.
    OpenMetrics,
}

impl Format {
    /// What whoever sends this `Accept` wants.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// Of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
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
        Self { name, help, kind, samples: vec![(Vec::new(), value)], distributions: Vec::new() }
    }

    /// Distributions of one kind of value.
    pub fn histogram(
        name: impl Into<String>,
        help: impl Into<String>,
        distributions: Vec<Distribution>,
    ) -> Self {
        let (name, help) = (name.into(), help.into());
        Self { name, help, kind: Kind::Histogram, samples: Vec::new(), distributions }
    }
}

/// The body of `GET /metrics`.
pub fn exposition(metrics: &[Metric], format: Format) -> String {
    let mut text = String::with_capacity(metrics.len() * 160);
    for metric in metrics {
        let (kind, family) = match metric.kind {
            Kind::Counter if format == Format::OpenMetrics => {
                ("counter", metric.name.strip_suffix("_total").unwrap_or(&metric.name))
            }
            Kind::Counter => ("counter", &*metric.name),
            Kind::StateSet if format == Format::OpenMetrics => ("stateset", &*metric.name),
            Kind::Gauge | Kind::StateSet => ("gauge", &*metric.name),
            Kind::Histogram => ("histogram", &*metric.name),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {family} {}", escaped(&metric.help, format == Format::OpenMetrics));
        let _ = writeln!(text, "# TYPE {family} {kind}");
        for (labels, value) in &metric.samples {
            sample(&mut text, &metric.name, "", labels, None, *value);
        }
        for distribution in &metric.distributions {
            let Distribution { labels, buckets, sum, count } = distribution;
            for (bound, below) in buckets {
                sample(&mut text, &metric.name, "_bucket", labels, Some(*bound), *below as f64);
            }
            sample(&mut text, &metric.name, "_bucket", labels, Some(f64::INFINITY), *count as f64);
            sample(&mut text, &metric.name, "_sum", labels, None, *sum);
            sample(&mut text, &metric.name, "_count", labels, None, *count as f64);
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn sample(text: &mut String, name: &str, suffix: &str, labels: &Labels, bound: Option<f64>, value: f64) {
    text.push_str(name);
    text.push_str(suffix);
    let mut before = '{';
    for (label, content) in labels {
        let _ = write!(text, "{before}{label}=\"{}\"", escaped(content, true));
        before = ',';
    }
    match bound {
        Some(f64::INFINITY) => {
            let _ = write!(text, "{before}le=\"+Inf\"}}");
        }
        Some(bound) => {
            let _ = write!(text, "{before}le=\"{bound:?}\"}}");
        }
        None if before == ',' => text.push('}'),
        None => {}
    }
    let _ = writeln!(text, " {value}");
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

/// All roles there are.
const ROLES: [&str; 9] =
    ["master", "backup", "standalone", "joining", "boot", "draining", "offered", "doubt", "stopped"];

/// What the status says of node and pair, as metrics.
pub fn of_status(status: &Status) -> Vec<Metric> {
    let node = &status.node;
    let states = ROLES.map(|name| (vec![("tandem_role", name.to_owned())], truth(name == node.role)));
    let mut metrics = vec![
        Metric {
            name: "tandem_role".to_owned(),
            help: "1 for the role this node has.".to_owned(),
            kind: Kind::StateSet,
            samples: states.into(),
            distributions: Vec::new(),
        },
        Metric::gauge("tandem_ready", "1 while clients' requests are answered here.", truth(node.ready)),
        Metric::gauge("tandem_epoch", "Epoch of the master this node is or follows.", node.epoch as f64),
        Metric::gauge(
            "tandem_warnings",
            "What an operator should put right; /status has the sentences.",
            status.warnings.len() as f64,
        ),
        Metric::gauge(
            "tandem_failover_paused",
            "1 while this node takes and gives no role by itself.",
            truth(node.failover_paused),
        ),
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
        Metric::gauge(
            "tandem_contradictions",
            "Settings in which the two nodes contradict each other.",
            status.contradictions().len() as f64,
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
        Metric::counter(
            "tandem_catch_ups_total",
            "Catch-ups begun: only what was missed is sent.",
            link.catch_ups,
        ),
        Metric::counter(
            "tandem_resumed_copies_total",
            "Copies and catch-ups that were cut and went on where they were.",
            link.resumed_copies,
        ),
        Metric::counter(
            "tandem_heal_merged_total",
            "Changes taken over from a node that had served apart.",
            link.heal_merged,
        ),
        Metric::counter(
            "tandem_heal_conflicts_total",
            "Keys that both nodes had changed while neither heard of the other.",
            link.heal_conflicts,
        ),
        Metric::counter(
            "tandem_replication_bytes_sent_total",
            "Bytes of changes and copies sent to the peer.",
            link.bytes_sent,
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
        Metric::counter(
            "tandem_ignored_frames_total",
            "Messages of a peer of a later release that this one does not know and may ignore.",
            link.ignored_frames,
        ),
        Metric::counter(
            "tandem_diverged_items_total",
            "Items of the backup that differed from the master's and were sent anew.",
            link.diverged_items,
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
        for role in ROLES {
            let node = Node { role: role.to_owned(), ..Node::default() };
            let status = Status { node, link: Some(Link::default()), ..Status::default() };
            let metrics = of_status(&status);
            assert!(exposition(&metrics, Format::OpenMetrics).contains("# TYPE tandem_role stateset\n"));
            let text = exposition(&metrics, Format::Text);
            assert!(text.contains("# TYPE tandem_role gauge\n"));
            let ones: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("tandem_role{") && line.ends_with(" 1"))
                .collect();
            assert_eq!(ones, [format!("tandem_role{{tandem_role=\"{role}\"}} 1")]);
        }
    }

    #[test]
    fn labels_and_help_cannot_break_the_format() {
        let metric = Metric {
            name: "m".to_owned(),
            help: "two\nlines".to_owned(),
            kind: Kind::Gauge,
            samples: vec![(vec![("l", "a\"b\\c\nd".to_owned())], 1.5)],
            distributions: Vec::new(),
        };
        assert_eq!(
            exposition(&[metric], Format::Text),
            "# HELP m two\\nlines\n# TYPE m gauge\nm{l=\"a\\\"b\\\\c\\nd\"} 1.5\n"
        );
    }

    #[test]
    fn a_histogram_is_cumulative_and_closed() {
        let metric = Metric::histogram(
            "h_seconds",
            "H.",
            vec![Distribution {
                labels: vec![("command", "get".to_owned())],
                buckets: vec![(0.000_001, 1), (1.0, 3)],
                sum: 0.5,
                count: 4,
            }],
        );
        let expected = "# HELP h_seconds H.\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{command=\"get\",le=\"1e-6\"} 1\n\
            h_seconds_bucket{command=\"get\",le=\"1.0\"} 3\n\
            h_seconds_bucket{command=\"get\",le=\"+Inf\"} 4\n\
            h_seconds_sum{command=\"get\"} 0.5\nh_seconds_count{command=\"get\"} 4\n";
        assert_eq!(exposition(&[metric], Format::Text), expected);
    }

    #[test]
    fn openmetrics_names_families_of_counters_without_their_ending_and_says_where_it_ends() {
        let counter = Metric::counter("c_total", "C.", 7);
        assert_eq!(
            exposition(&[counter], Format::OpenMetrics),
            "# HELP c C.\n# TYPE c counter\nc_total 7\n# EOF\n"
        );
        let asks = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Format::accepted(asks), Format::OpenMetrics);
        assert_eq!(Format::accepted("text/plain"), Format::Text);
        assert_eq!(Format::accepted(""), Format::Text);
    }
}
