//! `tandemd`.
fn main() {}
