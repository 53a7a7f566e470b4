//! Bars, as plain SVG.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LABEL: f64 = 210.0;
const BAR: f64 = 14.0;
const COLOURS: [&str; 2] = ["#2a6f97", "#c9ada7"];

/// Pairs of bars, one pair a row.
pub(crate) fn bars(title: &str, names: [&str; 2], rows: &[(String, f64, Option<f64>)]) -> String {
    draw(title, names, rows, None)
}

/// Ratios to memcached and to redis, with a line at 1.
pub(crate) fn ratios(title: &str, rows: &[(String, f64, Option<f64>)]) -> String {
    draw(title, ["of memcached's", "of redis's"], rows, Some(1.0))
}

fn draw(title: &str, names: [&str; 2], rows: &[(String, f64, Option<f64>)], mark: Option<f64>) -> String {
    let highest = rows.iter().flat_map(|(_, one, other)| [*one, other.unwrap_or(0.0)]).fold(0.0, f64::max);
    let scale = (WIDTH - LABEL - 70.0) / highest.max(mark.unwrap_or(0.0)).max(1e-9);
    let row_height = 2.0 * BAR + 12.0;
    let height = 70.0 + rows.len() as f64 * row_height;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"10\" y=\"22\" font-size=\"16\">{title}</text>\n"
    );
    for (at, name) in names.iter().enumerate() {
        let x = LABEL + 130.0 * at as f64;
        let _infallible = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"44\">{name}</text>",
            COLOURS[at],
            x + 17.0
        );
    }
    for (at, (name, one, other)) in rows.iter().enumerate() {
        let top = 60.0 + at as f64 * row_height;
        let _infallible = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>",
            LABEL - 8.0,
            top + BAR + 4.0
        );
        for (nth, value) in [Some(*one), *other].into_iter().enumerate() {
            let Some(value) = value else { continue };
            let (y, long) = (top + nth as f64 * BAR, (value * scale).max(0.0));
            let _infallible = writeln!(
                svg,
                "<rect x=\"{LABEL}\" y=\"{y:.1}\" width=\"{long:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{value:.2}</text>",
                BAR - 2.0,
                COLOURS[nth],
                LABEL + long + 4.0,
                y + BAR - 4.0
            );
        }
    }
    if let Some(mark) = mark {
        let x = LABEL + mark * scale;
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"54\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#999\" stroke-dasharray=\"4 3\"/>",
            height - 8.0
        );
    }
    svg + "</svg>\n"
}
