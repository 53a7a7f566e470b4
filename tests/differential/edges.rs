//! Numbers at the edges of 64 bits, every one with every other, in memory that nothing was stored in.

use crate::arena::{Program, disagreement};
use crate::reference_is_installed;
use crate::script::{Chop, Command, Script, Wire};
use crate::servers::TANDEM;

const VALUES: [&str; 20] = [
    "0",
    "1",
    "9",
    "10",
    "99",
    "100",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551614",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999",
    "-1",
    "-0",
    "+1",
    "",
    "1 2",
    "1a",
    "000000000000000000000000001",
    "-18446744073709551615",
];

const DELTAS: [&str; 7] = [
    "0",
    "1",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
];

#[test]
fn arithmetic_wraps_stops_and_refuses_as_it_does_for_memcached() {
    if !reference_is_installed() {
        return;
    }
    let mut commands = Vec::new();
    for (at, value) in VALUES.iter().enumerate() {
        for (by, delta) in DELTAS.iter().enumerate() {
            for name in ["incr", "decr"] {
                let key = format!("{name}:{at}:{by}");
                let lines = format!(
                    "set {key} 3 0 {}\r\n{value}\r\n{name} {key} {delta}\r\nget {key}\r\n{name} {key} 1\r\n",
                    value.len()
                );
                commands.push(Command { ends_round: true, ..Command::plain(lines) });
            }
        }
    }
    let script = Script { wire: Wire::Text, chop: Chop::Whole, commands };
    assert_eq!(disagreement(&Program(TANDEM), true, &[script]), None);
}
