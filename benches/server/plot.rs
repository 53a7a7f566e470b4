//! Pictures of the tables, as plain SVG that follows the reader's light or dark scheme.
//!
//! [`bars`] compares a few things in many rows, [`lines`] shows curves, [`timeline`] what happened second by
//! second. Each picture has its own ground, so that it can be read on any page.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const STYLE: &str = "\
svg{--ground:#fff;--ink:#1f2933;--soft:#66727f;--grid:#e4e8ec;--c0:#2166c4;--c1:#d98032;--c2:#3f9b6d;--bad:#c8372d}\
@media(prefers-color-scheme:dark){svg{--ground:#14181d;--ink:#e6eaee;--soft:#98a4b0;--grid:#2b333c;\
--c0:#6ea8f2;--c1:#eda35e;--c2:#6cc598;--bad:#f0756b}}\
text{fill:var(--ink);font:12px system-ui,-apple-system,'Segoe UI',sans-serif}\
.title{font-size:16px;font-weight:600}.soft{fill:var(--soft);font-size:11px}.end{text-anchor:end}.mid{text-anchor:middle}\
.grid{stroke:var(--grid)}.mark{stroke:var(--soft);stroke-dasharray:4 3}.ground{fill:var(--ground);stroke:var(--grid)}\
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.bad{fill:var(--bad)}.area{fill:var(--c0);fill-opacity:.25}\
.l0,.l1,.l2{fill:none;stroke-width:2;stroke-linejoin:round}.l0{stroke:var(--c0)}.l1{stroke:var(--c1)}\
.l2{stroke:var(--c2)}.dash{stroke-dasharray:5 4}";

/// A picture that grows.
struct Picture {
    body: String,
}

macro_rules! draw {
    ($picture:expr, $($text:tt)*) => {{
        let _infallible = writeln!($picture.body, $($text)*);
    }};
}

impl Picture {
    fn new(title: &str, note: &str) -> Self {
        let mut picture = Self { body: String::new() };
        picture.text(16.0, 28.0, "title", title);
        picture.text(16.0, 46.0, "soft", note);
        picture
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        draw!(self, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>");
    }

    fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &str) {
        draw!(self, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>");
    }

    fn rect(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], class: &str) {
        draw!(
            self,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" class=\"{class}\"/>"
        );
    }

    /// Names of the colours, in a row.
    fn legend(&mut self, y: f64, names: &[&str]) {
        let mut x = 16.0;
        for (at, name) in names.iter().enumerate() {
            self.rect([x, y - 10.0], [11.0, 11.0], &format!("f{at}"));
            self.text(x + 17.0, y, "", name);
            x += 40.0 + 7.0 * name.chars().count() as f64;
        }
    }

    fn finish(self, height: f64, title: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
             <rect x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\" class=\"ground\"/>\n{}</svg>\n",
            WIDTH - 1.0,
            height - 1.0,
            self.body
        )
    }
}

/// About `count` round numbers from 0 to a little above `highest`.
fn ticks(highest: f64, count: f64) -> Vec<f64> {
    let rough = (highest / count).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|one| one * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (0..=(highest / step).ceil() as usize).map(|nth| nth as f64 * step).collect()
}

/// A number as short as it may be.
fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        1000.0.. if number % 1000.0 == 0.0 => format!("{}k", number / 1000.0),
        100.0.. => format!("{number:.0}"),
        _ => format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

/// One or two bars in each row.
pub(crate) fn bars(title: &str, names: [&str; 2], rows: &[(String, f64, Option<f64>)]) -> String {
    let rows: Vec<_> =
        rows.iter().map(|(name, one, other)| (name.clone(), vec![Some(*one), *other])).collect();
    grouped(title, "lower is better, unless it says otherwise", &names, &rows, None)
}

/// Ratios to memcached and to redis, with a line at 1.
pub(crate) fn ratios(title: &str, rows: &[(String, f64, Option<f64>)]) -> String {
    let rows: Vec<_> =
        rows.iter().map(|(name, one, other)| (name.clone(), vec![Some(*one), *other])).collect();
    grouped(title, "lower is better; 1 is as dear", &["of memcached's", "of redis's"], &rows, Some(1.0))
}

/// Some bars in each row, as many as there are names; `mark` is a line across all rows.
pub(crate) fn grouped(
    title: &str,
    note: &str,
    names: &[&str],
    rows: &[(String, Vec<Option<f64>>)],
    mark: Option<f64>,
) -> String {
    const BAR: f64 = 13.0;
    const TOP: f64 = 92.0;
    let longest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) as f64;
    let left = (30.0 + 6.6 * longest).clamp(120.0, 280.0);
    let highest =
        rows.iter().flat_map(|(_, values)| values).flatten().fold(mark.unwrap_or(0.0), |a, b| a.max(*b));
    let ticks = ticks(highest.max(1e-9), 6.0);
    let scale = (WIDTH - left - 64.0) / ticks[ticks.len() - 1];
    let row_height = names.len() as f64 * BAR + 12.0;
    let bottom = TOP + rows.len() as f64 * row_height;
    let mut picture = Picture::new(title, note);
    picture.legend(70.0, names);
    for tick in ticks {
        let x = left + tick * scale;
        picture.line([x, TOP - 6.0], [x, bottom], "grid");
        picture.text(x, bottom + 16.0, "soft mid", &short(tick));
    }
    for (at, (name, values)) in rows.iter().enumerate() {
        let top = TOP + at as f64 * row_height;
        picture.text(left - 10.0, top + names.len() as f64 * BAR / 2.0 + 4.0, "end", name);
        for (nth, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let (y, long) = (top + nth as f64 * BAR, (value * scale).max(0.0));
            picture.rect([left, y], [long, BAR - 2.0], &format!("f{nth}"));
            picture.text(left + long + 5.0, y + BAR - 4.0, "soft", &format!("{value:.2}"));
        }
    }
    if let Some(mark) = mark {
        let x = left + mark * scale;
        picture.line([x, TOP - 6.0], [x, bottom], "mark");
    }
    picture.finish(bottom + 28.0, title)
}

/// A curve.
#[derive(Debug)]
pub(crate) struct Curve {
    pub(crate) name: String,
    /// Which colour; curves of one colour belong together.
    pub(crate) colour: usize,
    pub(crate) dashed: bool,
    pub(crate) points: Vec<[f64; 2]>,
}

/// Curves over an axis that begins at 0; upwards, each line is ten times the last or half of that.
pub(crate) fn lines(title: &str, note: &str, [x_name, y_name]: [&str; 2], curves: &[Curve]) -> String {
    let [left, right, top, bottom] = [66.0, WIDTH - 130.0, 78.0, 380.0];
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let widest = points().fold(0.0, |widest: f64, point| widest.max(point[0]));
    let low = points().fold(f64::MAX, |low, point| low.min(point[1])).max(1e-9);
    let high = points().fold(low, |high, point| high.max(point[1]));
    let (low, high) = (low.log10() - 0.08, high.log10() + 0.08);
    let across = ticks(widest.max(1e-9), 7.0);
    let end = across[across.len() - 1];
    let place = |[x, y]: [f64; 2]| {
        let up = (y.max(1e-9).log10() - low) / (high - low);
        [left + x / end * (right - left), bottom - up * (bottom - top)]
    };
    let mut picture = Picture::new(title, note);
    for tick in across {
        let [x, _] = place([tick, 1.0]);
        picture.line([x, top], [x, bottom], "grid");
        picture.text(x, bottom + 16.0, "soft mid", &short(tick));
    }
    for power in low.floor() as i32..=high.ceil() as i32 {
        for digit in [1.0, 2.0, 5.0] {
            let tick = digit * 10_f64.powi(power);
            if !(low..=high).contains(&tick.log10()) {
                continue;
            }
            let [_, y] = place([0.0, tick]);
            picture.line([left, y], [right, y], "grid");
            picture.text(left - 8.0, y + 4.0, "soft end", &short(tick));
        }
    }
    picture.text(left, top - 10.0, "soft", y_name);
    picture.text(right, bottom + 34.0, "soft end", x_name);
    let mut ends: Vec<(f64, &Curve)> = Vec::new();
    for curve in curves {
        let path: Vec<String> =
            curve.points.iter().map(|&point| place(point)).map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        let dash = if curve.dashed { " dash" } else { "" };
        draw!(picture, "<polyline points=\"{}\" class=\"l{}{dash}\"/>", path.join(" "), curve.colour);
        for &point in &curve.points {
            let [x, y] = place(point);
            draw!(picture, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" class=\"f{}\"/>", curve.colour);
        }
        ends.extend(curve.points.last().map(|&last| (place(last)[1], curve)));
    }
    // Names stand where their curves end, and do not lie upon each other.
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut lowest = f64::MIN;
    for (y, curve) in ends {
        let y = (y + 4.0).max(lowest + 14.0);
        lowest = y;
        let x = curve.points.last().map_or(right, |&last| place(last)[0]);
        draw!(
            picture,
            "<text x=\"{:.1}\" y=\"{y:.1}\" class=\"f{}\">{}</text>",
            x + 8.0,
            curve.colour,
            curve.name
        );
    }
    picture.finish(bottom + 48.0, title)
}

/// What happened in steps of equal length: answers as an area, errors as bars below, and moments with their names.
pub(crate) fn timeline(
    title: &str,
    note: &str,
    step_seconds: f64,
    [answers, errors]: [&[f64]; 2],
    moments: &[(f64, String)],
) -> String {
    let [left, right, top, middle, bottom] = [66.0, WIDTH - 24.0, 96.0, 280.0, 360.0];
    let end = answers.len() as f64 * step_seconds;
    let x = |seconds: f64| left + seconds / end * (right - left);
    let mut picture = Picture::new(title, note);
    let mut panel = |values: &[f64], [upper, lower]: [f64; 2], name: &str, count: f64| {
        let highest = values.iter().copied().fold(0.0, f64::max);
        let ticks = ticks(highest.max(1.0), count);
        let scale = (lower - upper) / ticks[ticks.len() - 1];
        for tick in ticks {
            let y = lower - tick * scale;
            picture.line([left, y], [right, y], "grid");
            picture.text(left - 8.0, y + 4.0, "soft end", &short(tick));
        }
        picture.text(left, upper - 8.0, "soft", name);
        scale
    };
    let up = panel(answers, [top, middle], "answers per second", 5.0);
    let down = panel(errors, [middle + 36.0, bottom], "errors per second", 2.0);
    let mut path = format!("M{left:.1},{middle:.1}");
    let mut edge = String::new();
    for (at, rate) in answers.iter().enumerate() {
        let (from, to) = (x(at as f64 * step_seconds), x((at + 1) as f64 * step_seconds));
        let y = middle - rate * up;
        let _infallible = write!(path, "L{from:.1},{y:.1}L{to:.1},{y:.1}");
        let _infallible = write!(edge, "{from:.1},{y:.1} {to:.1},{y:.1} ");
    }
    draw!(picture, "<path d=\"{path}L{right:.1},{middle:.1}Z\" class=\"area\"/>");
    draw!(picture, "<polyline points=\"{edge}\" class=\"l0\"/>");
    for (at, rate) in errors.iter().enumerate().filter(|(_, rate)| **rate > 0.0) {
        let long = (rate * down).max(1.5);
        let wide = ((right - left) / errors.len() as f64).max(1.5);
        picture.rect([x(at as f64 * step_seconds), bottom - long], [wide, long], "bad");
    }
    for (nth, (seconds, name)) in moments.iter().enumerate() {
        let at = x(*seconds);
        picture.line([at, top - 24.0], [at, bottom], "mark");
        // One above the other, so that close ones can be read.
        picture.text(at + 5.0, top - 14.0 + 15.0 * nth as f64, "", name);
    }
    for tick in ticks(end, 8.0).into_iter().filter(|tick| *tick <= end + 1e-9) {
        picture.text(x(tick), bottom + 18.0, "soft mid", &format!("{} s", short(tick)));
    }
    picture.finish(bottom + 32.0, title)
}
