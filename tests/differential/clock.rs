//! What the passing of real seconds does: a few short waits, in one test.
//!
//! The two clocks tick at different moments, so nothing is asked less than a second before a deadline.

use std::time::Duration;

use crate::compare::Comparer;
use crate::exchange::{ask, connect};
use crate::reference_is_installed;
use crate::script::{Chop, Wire};
use crate::servers::{MEMCACHED, Server, TANDEM};

/// What is said, in steps; after each step both servers must have answered the same, then seconds pass.
const STEPS: &[(&str, u64)] = &[
    (
        "set soon 0 2 1\r\nx\r\nset later 0 100 1\r\ny\r\nset never 7 0 1\r\nz\r\nset unread 0 0 1\r\nu\r\nset touched 0 100 1\r\nt\r\ntouch touched 2\r\n\
         set got 0 100 1\r\ng\r\ngat 2 got\r\nset saved 0 2 1\r\ns\r\ntouch saved 0\r\nset number 0 2 2\r\n10\r\nincr number 5\r\n\
         set grown 0 2 1\r\na\r\nappend grown 0 0 1\r\nb\r\nms meta 2 T2\r\nhi\r\nms kept 2 T2\r\nhi\r\nmg kept T100 v\r\n\
         ms stale 2 T100\r\nhi\r\nmd stale I T2\r\nma count N2 J9 v\r\nset past 0 -1 1\r\np\r\nget past\r\nadd past 0 0 1\r\nq\r\n\
         get soon later never touched got saved number grown meta kept past\r\n",
        4,
    ),
    (
        "get soon later never touched got saved number grown meta kept past\r\nmg stale v\r\nmg count v\r\nmg unread l h t\r\nadd soon 0 0 1\r\nn\r\n\
         replace touched 0 0 1\r\nr\r\nappend grown 0 0 1\r\nc\r\nincr number 1\r\ntouch got 10\r\ndelete meta\r\n\
         ms fresh 2 T100\r\nhi\r\nset delayed 0 0 1\r\nd\r\nflush_all 3\r\nset between 0 0 1\r\nb\r\nget delayed between\r\n",
        5,
    ),
    ("get soon later never delayed between fresh\r\nset after 0 0 1\r\na\r\nget after\r\n", 2),
    ("get after\r\nflush_all\r\nset again 0 0 1\r\na\r\nget after again\r\n", 0),
];

/// The counters that these steps move.
const COUNTED: [&str; 4] = ["get_hits", "get_misses", "touch_hits", "touch_misses"];

#[test]
fn time_passes_as_it_does_for_memcached() {
    if !reference_is_installed() {
        return;
    }
    let servers = [Server::start(MEMCACHED), Server::start(TANDEM)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut first = connect(servers[0].address()).await;
        let mut second = connect(servers[1].address()).await;
        let mut comparer = Comparer::default();
        for (step, (said, seconds)) in STEPS.iter().enumerate() {
            let bytes = said.as_bytes().to_vec();
            let (reference, answer) = tokio::join!(
                ask(&mut first, Wire::Text, Chop::Whole, bytes.clone(), 0),
                ask(&mut second, Wire::Text, Chop::Whole, bytes, 0),
            );
            comparer
                .round(Wire::Text, &reference, &answer)
                .unwrap_or_else(|difference| panic!("step {step}: {said}: {difference}"));
            assert!(!String::from_utf8_lossy(&answer.bytes).contains(" l0 h0"), "unread for seconds");
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
        }
        let stats = b"stats\r\n".to_vec();
        let reference = ask(&mut first, Wire::Text, Chop::Whole, stats.clone(), 0).await;
        let answer = ask(&mut second, Wire::Text, Chop::Whole, stats, 0).await;
        let counted = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let is_counted =
                |line: &&str| COUNTED.iter().any(|name| line.starts_with(&format!("STAT {name} ")));
            text.lines().filter(is_counted).map(str::to_owned).collect()
        };
        assert_eq!(counted(&reference.bytes), counted(&answer.bytes));
    });
}
