//! Every script in `tests/scenarios/`, with several seeds: see `testing::script` for the language.
//!
//! `TANDEM_SCENARIO=name` runs one and prints what happens in it.

use std::path::Path;

use tandem_replication::testing::script;

/// Every story is told with different delays.
const SEEDS: u64 = if cfg!(debug_assertions) { 4 } else { 25 };

#[test]
fn every_scenario_comes_out_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let only = std::env::var("TANDEM_SCENARIO").ok();
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut failures = Vec::new();
    for path in names {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let seeds = if only.is_some() { 1 } else { SEEDS };
        for seed in 0..seeds {
            if let Err(error) = script::run(&text, seed, None, only.is_some()) {
                failures.push(format!("{name}, seed {seed}: {error}"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
