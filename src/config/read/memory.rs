//! What concerns items: how much of them, how large, and where they survive.

use std::path::PathBuf;

use super::Reader;
use crate::config::{EXIT_USAGE, EngineConfig, Problem, bytes};

impl Reader<'_> {
    pub(super) fn engine(&mut self) -> EngineConfig {
        let memory_bytes = match self.text("memory-limit") {
            None => 64 << 20,
            Some(text) => bytes(&text, 1 << 20).filter(|bytes| *bytes > 0).unwrap_or_else(|| {
                self.problem(
                    EXIT_USAGE,
                    format!("-m {text}: the memory limit takes a number of megabytes, at least 1"),
                );
                16 << 20
            }),
        };
        let item_size_max = self.item_size_max();
        let (half, limit) = (memory_bytes / 2, 1u64 << 30);
        if item_size_max < 1024 {
            self.problem(
                EXIT_USAGE,
                "Item max size cannot be less than 1024 bytes. (-I takes 1k to 1024m)".to_owned(),
            );
        } else if item_size_max as u64 > limit {
            self.problem(
                EXIT_USAGE,
                "Cannot set item size limit higher than a gigabyte. (-I takes 1k to 1024m)".to_owned(),
            );
        } else if item_size_max as u64 > half {
            self.problem(
                EXIT_USAGE,
                format!("Cannot set item size limit higher than 1/2 of memory max. (-I {item_size_max} with -m {}: lower -I or raise -m)", memory_bytes >> 20),
            );
        }
        EngineConfig {
            memory_bytes,
            evict: !self.flag("disable-evictions"),
            item_size_max,
            cas: !self.flag("disable-cas"),
        }
    }

    pub(super) fn item_size_max(&mut self) -> usize {
        let Some(text) = self.text("max-item-size") else { return 1 << 20 };
        match bytes(&text, 1).and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) => bytes,
            None => {
                let problem = Problem::new(
                    EXIT_USAGE,
                    format!("-I {text}: the item size takes bytes, or a number with k or m behind it"),
                );
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
                1 << 20
            }
        }
    }

    /// Growth factor and smallest chunk: accepted, checked and shown.
    pub(super) fn slabs(&mut self) -> [(&'static str, String); 2] {
        let factor = match self.text("slab-growth-factor").map(|text| text.parse::<f64>()) {
            None => 1.25,
            Some(Ok(factor)) if factor > 1.0 && factor.is_finite() => factor,
            Some(_) => {
                self.problem(1, "Factor must be greater than 1 (-f)".to_owned());
                1.25
            }
        };
        let chunk =
            self.count("slab-min-size", 48, 1, 1 << 20, "-n", Some("Chunk size must be greater than 0"));
        [("growth_factor", format!("{factor:.2}")), ("chunk_size", chunk.to_string())]
    }

    /// A file in a directory that is there; whether it can be written is known after `-u` only. Not with a
    /// peer: nobody could tell which of the file's items the pair has deleted since.
    pub(super) fn memory_file(&mut self, has_peer: bool) -> Option<PathBuf> {
        let text = self.text("memory-file")?;
        if has_peer {
            self.problem(
                EXIT_USAGE,
                format!(
                    "-e {text}: not for a node with a peer (-x, -X), which has its items from there: a file is older than \
                     what the pair deleted since; leave -e out, and load what the file holds once without -x and -X"
                ),
            );
            return None;
        }
        // In the background the working directory will be another one.
        let path = std::path::absolute(&text).unwrap_or_else(|_| PathBuf::from(&text));
        let problem = match path.parent().map(std::path::Path::metadata) {
            _ if text.ends_with('/') || path.is_dir() => "that is no name of a file".to_owned(),
            Some(Ok(directory)) if directory.is_dir() => return Some(path),
            Some(Err(error)) => format!("its directory: {error}"),
            _ => "that is in no directory".to_owned(),
        };
        self.problem(EXIT_USAGE, format!("-e {text}: {problem}; name a file in a directory that exists"));
        None
    }

    pub(super) fn memory_bytes_or_default(&self) -> u64 {
        self.text("memory-limit").and_then(|text| bytes(&text, 1 << 20)).unwrap_or(64 << 20)
    }
}
