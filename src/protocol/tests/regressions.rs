//! Holes that other servers of these protocols had, each by its name: none may open here.

use super::Sample::*;
use super::*;

/// A binary header with these lengths, and `there` bytes of body.
fn packet(opcode: u8, key_len: u16, extras_len: u8, body_len: u32, there: usize) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend(key_len.to_be_bytes());
    bytes.extend([extras_len, 0, 0, 0]);
    bytes.extend(body_len.to_be_bytes());
    bytes.extend([0; 12]);
    bytes.extend(vec![b'k'; there]);
    bytes
}

/// Nothing is decoded, one error is answered, the connection ends.
#[track_caller]
fn is_refused(input: &[u8], status: u8) {
    let (log, out, closed) = exchange_with(limits(), Stored, input);
    assert!(log.is_empty() && closed, "{log:?}");
    assert_eq!((out[0], out[6], out[7]), (0x81, 0, status));
}

#[test]
fn cve_2016_8704_append_with_a_body_shorter_than_its_key() {
    for opcode in [0x0e, 0x0f, 0x19, 0x1a] {
        is_refused(&packet(opcode, 250, 0, 0, 300), 0x81);
        is_refused(&packet(opcode, 250, 0, 249, 300), 0x81);
        is_refused(&packet(opcode, 1, 0, 0xffff_ffff, 300), 4);
    }
}

#[test]
fn cve_2016_8705_update_with_lengths_that_underflow() {
    for opcode in [0x01, 0x02, 0x03, 0x11, 0x12, 0x13] {
        is_refused(&packet(opcode, 250, 8, 250, 300), 0x81);
        is_refused(&packet(opcode, 250, 8, 0xffff_ffd0, 300), 4);
        is_refused(&packet(opcode, 1, 8, 0x7fff_ffff, 300), 4);
        is_refused(&packet(opcode, 1, 8, 0x8000_0000, 300), 4);
    }
}

#[test]
fn cve_2016_8706_sasl_with_a_body_shorter_than_its_key() {
    for opcode in [0x21, 0x22] {
        is_refused(&packet(opcode, 32, 0, 1, 40), 0x81);
        is_refused(&packet(opcode, 33, 0, 40, 40), 4);
        is_refused(&packet(opcode, 5, 0, 0xffff_fff0, 40), 4);
    }
}

#[test]
fn extras_longer_than_the_body() {
    for opcode in 0..=0xff {
        is_refused(&packet(opcode, 0, 255, 3, 300), 0x81);
        is_refused(&packet(opcode, 0, 255, 254, 300), 0x81);
    }
}

#[test]
fn no_binary_length_makes_a_command_of_foreign_bytes() {
    // Every combination at the edges: what is decoded never holds more than was sent.
    for opcode in 0..=0x25 {
        for key_len in [0, 1, 249, 250, 251, 0xffff] {
            for extras_len in [0, 3, 4, 8, 20, 255] {
                for extra_body in [0, 1, 1000, 5000] {
                    let body_len = u32::from(key_len) + u32::from(extras_len) + extra_body;
                    let input = packet(opcode, key_len, extras_len, body_len, body_len as usize);
                    let (log, _, _) = exchange_in(limits(), Found("v"), &input, &[24]);
                    assert!(log.len() <= 1, "{opcode:x} {key_len} {extras_len} {extra_body}: {log:?}");
                }
            }
        }
    }
}

#[test]
fn lengths_near_two_to_the_31st() {
    for len in
        ["2147483645", "2147483646", "2147483647", "2147483648", "4294967295", "4294967296", "-2147483648"]
    {
        for line in
            [format!("set k 0 0 {len}\r\n"), format!("ms k {len}\r\n"), format!("append k 0 0 {len}\r\n")]
        {
            let mut connection = Connection::new(Protocol::Auto, limits(), TooLarge);
            connection.feed(line.as_bytes());
            connection.feed(&[b'x'; 100]);
            assert!(connection.longest_buffer < 200 && connection.closed.is_none(), "{line}");
        }
    }
}

#[test]
fn cve_2020_22570_meta_flags_out_of_range() {
    for byte in 1..=255u8 {
        if matches!(byte, b'\r' | b'\n' | b' ') {
            continue;
        }
        for verb in ["mg k", "ms k 1", "md k", "ma k"] {
            let mut input = format!("{verb} ").into_bytes();
            input.extend([byte, byte, b' ', byte]);
            input.extend(b"\r\nx\r\nmn\r\n");
            let (_, out, closed) = exchange_in(limits(), Miss, &input, &[]);
            assert!(
                out.starts_with(b"CLIENT_ERROR ") && out.ends_with(b"MN\r\n") && !closed,
                "{verb} {byte}"
            );
        }
    }
}

#[test]
fn meta_opaques_and_flags_are_bounded() {
    let huge = "O".to_owned() + &"x".repeat(10_000);
    let many = "v ".repeat(5000);
    for (line, text) in [
        (format!("mg k {huge}\r\n"), "CLIENT_ERROR opaque token too long\r\n"),
        (format!("mg k {many}\r\n"), "CLIENT_ERROR options flags are too long\r\n"),
        (format!("me k {many}\r\n"), "EN\r\n"),
    ] {
        let (_, out, _) = exchange_in(limits(), Miss, line.as_bytes(), &[]);
        assert_eq!(String::from_utf8_lossy(&out), text);
    }
}

#[test]
fn base64_keys_of_every_length_and_shape() {
    for len in 0..=260 {
        for filler in ["A", "=", "_", "\u{7f}"] {
            let line = format!("mg {} b k v\r\n", filler.repeat(len));
            let (log, out, _) = exchange_in(limits(), Miss, line.as_bytes(), &[]);
            let good = filler == "A" && len % 4 == 0 && (1..=250).contains(&len);
            if len > 0 {
                assert_eq!(log.len(), usize::from(good), "{line}");
                assert_eq!(out.starts_with(b"EN k"), good, "{line}");
            }
        }
    }
}

#[test]
fn a_huge_word_is_not_kept() {
    let mut connection = Connection::new(Protocol::Auto, limits(), Miss);
    for _ in 0..1000 {
        connection.feed(&[b'x'; 100]);
    }
    assert!(connection.closed.is_some());
    let mut connection = Connection::new(Protocol::Auto, limits(), Miss);
    connection.feed(b"get ");
    for _ in 0..1000 {
        connection.feed(&[b'x'; 100]);
    }
    assert!(connection.longest_buffer <= 2200, "{}", connection.longest_buffer);
    connection.feed(b" k\r\nmn\r\n");
    assert_eq!(connection.out.to_vec(), b"CLIENT_ERROR bad command line format\r\nMN\r\n");
    assert!(connection.log.is_empty());
}

#[test]
fn empty_lines_are_answered_each() {
    let (log, out, closed) = exchange_with(limits(), Miss, b"\r\n\n\r\nmn\r\n");
    assert!(log.is_empty() && !closed);
    assert_eq!(
        out,
        ["CLIENT_ERROR bad command line format\r\n"; 3]
            .concat()
            .into_bytes()
            .into_iter()
            .chain(*b"MN\r\n")
            .collect::<Vec<_>>()
    );
}
