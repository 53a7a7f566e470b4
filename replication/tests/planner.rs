//! The fuzz target of the catch-up planner (`fuzz/src/planner.rs`), fed with what chance makes of it:
//! libFuzzer does so for longer, guided by coverage.

#[path = "../../fuzz/src/planner.rs"]
#[allow(unreachable_pub, reason = "a part of the fuzz targets")]
mod planner;

use tandem_replication::testing::Random;

#[test]
fn whatever_a_follower_asks_for_the_answer_ends_and_is_enough() {
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let length = random.within(2..400);
        // Mostly small numbers, as in a real life; sometimes any.
        let wild = random.chance(20);
        let bytes: Vec<u8> =
            (0..length).map(|_| random.within(0..if wild { 256 } else { 24 }) as u8).collect();
        planner::planner(&bytes);
    }
}
