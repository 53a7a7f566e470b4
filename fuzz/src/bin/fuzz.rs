//! libFuzzer's program for all targets; $FUZZ_TARGET says which.
#![no_main]

use std::sync::OnceLock;

use tandem_fuzz::TARGETS;

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let target = TARGETS.iter().find(|target| target.name == name);
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        let target = target.unwrap_or_else(|| panic!("FUZZ_TARGET is one of {}", names.join(", ")));
        let _first = RUN.set(target.run);
    },
    |bytes: &[u8]| {
        if let Some(run) = RUN.get() {
            run(bytes);
        }
    }
);
