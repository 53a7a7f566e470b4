//! Whatever bytes come: no panic, progress with every call, and the same answer however they are cut.

use proptest::prelude::*;

use super::*;

/// Pieces that real requests are made of, so that random input gets past the first word.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"get ",
        b"gets ",
        b"gat ",
        b"set ",
        b"cas ",
        b"append ",
        b"delete ",
        b"incr ",
        b"touch ",
        b"mg ",
        b"ms ",
        b"md ",
        b"ma ",
        b"me ",
        b"mn",
        b"flush_all",
        b"stats",
        b"verbosity ",
        b"k ",
        b"key ",
        b"0 ",
        b"1 ",
        b"3 ",
        b"200 ",
        b"5000 ",
        b"-1 ",
        b"2147483647 ",
        b"99999999999999999999 ",
        b"noreply",
        b" ",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n",
        b"abc",
        b"b ",
        b"v ",
        b"Zm9v ",
        b"T0 ",
        b"q ",
        b"C1 ",
        b"O1 ",
        b"HTTP/1.1",
        b"\x80",
        b"\x80\x01\x00\x01\x08\x00\x00\x00\x00\x00\x00\x0a",
        b"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01",
        b"\x80\x21\x00\x05",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    prop_oneof![
        8 => proptest::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 0..3000usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(piece(), 1..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    // The driver asserts that every call uses what it was given, or asks for more.
    #[test]
    fn any_bytes_are_survived(input in input(), cuts in proptest::collection::vec(0.0..1.0f64, 0..8)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * input.len() as f64) as usize).collect();
        cuts.sort_unstable();
        for sample in [Sample::Found("x"), Sample::NotFound] {
            exchange_in(limits(), sample, &input, &cuts);
        }
        exchange_in(limits(), Sample::Refused("x"), &input, &[]);
    }

    // A line longer than the limit is treated differently before its end is there, so lines are kept
    // shorter here.
    #[test]
    fn cuts_do_not_matter(
        input in input().prop_filter("short lines", |input| input.len() < 2000),
        cuts in proptest::collection::vec(0.0..1.0f64, 1..8),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * input.len() as f64) as usize).collect();
        cuts.sort_unstable();
        let whole = exchange_in(limits(), Sample::Found("x"), &input, &[]);
        prop_assert_eq!(exchange_in(limits(), Sample::Found("x"), &input, &cuts), whole);
    }

    #[test]
    fn any_packet_header_is_survived(header in proptest::collection::vec(any::<u8>(), 23), body in 0..600usize) {
        let mut input = vec![0x80];
        input.extend(&header);
        input.extend(vec![0x80; body]);
        exchange_in(limits(), Sample::Found("x"), &input, &[1, 12]);
    }

    #[test]
    fn words_are_what_blanks_separate(line in "[ab ]{0,60}|[\x01-\u{ff} ]{0,40}") {
        let line = line.as_bytes();
        let expected: Vec<&[u8]> = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).collect();
        let mut found = Vec::new();
        let mut rest = line;
        loop {
            let (word, behind) = words::split(rest);
            if word.is_empty() {
                break;
            }
            found.push(word);
            rest = behind;
        }
        prop_assert_eq!(words::count(line), expected.len());
        prop_assert_eq!(words::last(line), expected.last().copied().unwrap_or_default());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn numbers_are_read_as_the_language_reads_them(number in any::<i128>().prop_map(|number| number >> 58), sign in "[+-]?") {
        let text = format!("{sign}{}", number.unsigned_abs());
        prop_assert_eq!(words::unsigned(text.as_bytes()), text.parse::<u64>().ok().filter(|_| sign != "-"));
        prop_assert_eq!(words::signed(text.as_bytes()), text.parse::<i64>().ok());
        prop_assert_eq!(words::signed32(text.as_bytes()), text.parse::<i32>().ok());
    }

    // Exactly one answer to every classic request that is whole and wants one.
    #[test]
    fn every_request_is_answered_once(key in "[a-z]{1,250}", value in proptest::collection::vec(any::<u8>(), 0..6000)) {
        let mut input = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        input.extend(&value);
        input.extend(b"\r\nmn\r\n");
        let (_, out, _) = exchange_in(limits(), Sample::Stored, &input, &[input.len() / 2]);
        prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 2);
        prop_assert!(out.ends_with(b"\r\nMN\r\n"));
    }
}
