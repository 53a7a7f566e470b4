//! Tables in Markdown, and the document they live in.

use std::path::PathBuf;

/// The middle of the values, and the lowest and highest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, low: values[0], high: values[values.len() - 1] }
    }

    pub(crate) fn text(&self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}

/// A table in Markdown.
pub(crate) fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<&str> = cells.collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut head.iter().copied());
    text += &line(&mut head.iter().map(|_| "---"));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Of each row of a table in Markdown: its name, and the number that begins the cell under the heading that begins
/// like that.
pub(crate) fn column(text: &str, heading: &str) -> Vec<(String, Option<f64>)> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches(['|', ' ']).split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = text.lines().filter(|line| line.starts_with('|'));
    let head = cells(lines.next().unwrap_or_default());
    let at = head.iter().position(|cell| cell.starts_with(heading));
    let number = |cell: &String| cell.split_whitespace().next()?.parse().ok();
    lines
        .skip(1)
        .map(|line| {
            let cells = cells(line);
            (cells[0].clone(), at.and_then(|at| cells.get(at)).and_then(number))
        })
        .collect()
}

/// `docs/performance.md`: what is measured stands between marks, the rest is written by people.
pub(crate) struct Document {
    folder: PathBuf,
    dry: bool,
}

impl Document {
    pub(crate) fn new(dry: bool) -> Self {
        Self { folder: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")), dry }
    }

    /// Replaces what stands between the marks of that name.
    pub(crate) fn put(&self, name: &str, text: &str) {
        println!("\n## {name}\n\n{text}");
        if self.dry {
            return;
        }
        let path = self.folder.join("performance.md");
        let document = std::fs::read_to_string(&path).expect("docs/performance.md");
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let (before, rest) = document.split_once(&begin).expect("a mark where it begins");
        let (_, after) = rest.split_once(&end).expect("a mark where it ends");
        std::fs::write(&path, format!("{before}{begin}{text}{end}{after}")).expect("a writable document");
    }

    /// The same with a picture below, which is there from then on.
    pub(crate) fn illustrate(&self, name: &str, text: &str, title: &str, file: &str, svg: &str) {
        self.plot(file, svg);
        self.put(name, &format!("{text}\n![{title}]({file})\n"));
    }

    pub(crate) fn plot(&self, name: &str, svg: &str) {
        if !self.dry {
            std::fs::write(self.folder.join(name), svg).expect("a writable folder");
        }
    }
}
