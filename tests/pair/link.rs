//! The link between the nodes breaks and comes back.

use crate::harness::{PATIENCE, wait_for};
use crate::setup;

#[test]
fn a_reset_link_heals_by_itself_without_a_copy() {
    let pair = setup().start();
    let master = pair.wait_paired();
    let copies = || pair.nodes.iter().map(|node| node.replicated("full_copies")).sum::<u64>();
    let copies_before = copies();
    let mut client = pair.nodes[master].client();
    let mut count = 0;
    for round in 1..=20 {
        assert!(pair.reset_links() > 0, "nothing was reset: does this kernel have INET_DIAG_DESTROY?");
        for _ in 0..50 {
            client.set(&format!("key-{count}"), b"v").expect("the master goes on serving");
            count += 1;
        }
        wait_for("the link comes up again", PATIENCE, || {
            (pair.nodes[master].replicated("reconnects") >= round).then_some(())
        });
        assert_eq!(pair.wait_paired(), master, "a lost link is no reason to change roles");
    }
    assert_eq!(pair.wait_converged(PATIENCE), count);
    assert_eq!(copies(), copies_before, "what was missed fits into the backlog");
}
