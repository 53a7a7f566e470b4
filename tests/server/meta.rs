//! The meta protocol over a socket.

use crate::harness::Node;

const TABLE: &[(&str, &str)] = &[
    ("mg none\r\nmg none v k Oabc\r\n", "EN\r\nEN knone Oabc\r\n"),
    ("ms a 2 T0 F5\r\nhi\r\n", "HD\r\n"),
    ("mg a v f t s k Oxy\r\n", "VA 2 f5 t-1 s2 ka Oxy\r\nhi\r\n"),
    ("mg a\r\n", "HD\r\n"),
    ("mg none q v\r\nmg a q v\r\nmn\r\n", "VA 2\r\nhi\r\nMN\r\n"),
    ("ms a 1 MA\r\n!\r\nmg a v\r\n", "HD\r\nVA 3\r\nhi!\r\n"),
    ("ms a 1 ME\r\nx\r\nms none 1 MR\r\nx\r\n", "NS\r\nNS\r\n"),
    (
        "ms n 1\r\n5\r\nma n v\r\nma n D10 v\r\nma n MD v\r\n",
        "HD\r\nVA 1\r\n6\r\nVA 2\r\n16\r\nVA 2\r\n15\r\n",
    ),
    ("ma fresh N0 J13 v\r\nma fresh v\r\n", "VA 2\r\n13\r\nVA 2\r\n14\r\n"),
    ("md a\r\nmd a\r\nmd a q\r\nmn\r\n", "HD\r\nNF\r\nNF\r\nMN\r\n"),
    ("ms Zm9v 1 b\r\nx\r\nmg foo v\r\n", "HD\r\nVA 1\r\nx\r\n"),
    ("mg Zm9v b k\r\n", "HD kZm9v b\r\n"),
    ("mg a v v\r\n", "CLIENT_ERROR duplicate flag\r\n"),
    ("ms a 1 MZ\r\nx\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n"),
    ("mg\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("mg recache N30 v t\r\nmg recache v\r\n", "VA 0 t30 W\r\n\r\nVA 0 Z\r\n\r\n"),
];

#[test]
fn every_meta_command_is_answered_as_memcached_answers_it() {
    let node = Node::start("");
    let mut client = node.client();
    for (sent, answer) in TABLE {
        client.ask(sent, answer);
    }
}

#[test]
fn quiet_commands_in_one_packet_answer_what_must_be_heard() {
    let node = Node::start("");
    let (sent, answers): (Vec<_>, Vec<_>) = TABLE.iter().copied().unzip();
    node.client().ask(sent.concat(), answers.concat());
}
