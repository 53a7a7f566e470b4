//! More writes at once than any queue holds.

use tandemd::bench::client::set_request;

use crate::harness::PATIENCE;
use crate::setup;

#[test]
fn a_million_pipelined_sets_neither_break_the_pair_nor_get_lost() {
    const COUNT: usize = 1_000_000;
    let mut setup = setup();
    setup.memory = 1024;
    let pair = setup.start();
    let master = pair.wait_paired();
    let mut client = pair.nodes[master].client();
    let mut chunk = Vec::new();
    for index in 0..COUNT {
        chunk.extend(set_request(&format!("burst-{index}"), b"0123456789", true));
        if chunk.len() > 1 << 20 || index + 1 == COUNT {
            client.send(&chunk).expect("the master takes the burst");
            chunk.clear();
        }
    }
    assert!(client.version().is_ok(), "the connection is still in step");
    assert_eq!(pair.wait_converged(2 * PATIENCE), COUNT as u64);
    assert_eq!(pair.master(), Some(master));
}
