//! Replies go out in order, whole, and without copying large values.

use super::*;
use std::io::IoSlice;

fn pages(parts: &[&'static str]) -> Pages {
    Pages::new(parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect::<Vec<_>>())
}

fn sample() -> Output {
    let mut out = Output::new();
    out.extend(b"one ");
    out.pages(&pages(&["two ", "", "three "]));
    out.extend(b"four ");
    out.number(5);
    out.value(&Value::Pages(&pages(&[" six"])));
    out
}

#[test]
fn pages_are_spliced_in_where_they_belong() {
    let out = sample();
    assert_eq!(out.to_vec(), b"one two three four 5 six");
    assert_eq!(out.len(), 24);
}

#[test]
fn pages_are_shared_not_copied() {
    let value = pages(&["large"]);
    let mut out = Output::new();
    out.pages(&value);
    let mut slices = [IoSlice::new(b"")];
    assert_eq!(out.slices(&mut slices), 1);
    assert_eq!(slices[0].as_ptr(), value.chunks()[0].as_ptr());
}

#[test]
fn partial_writes_lose_and_repeat_nothing() {
    let whole = sample().to_vec();
    for step in 1..whole.len() + 1 {
        let mut out = sample();
        let mut written = Vec::new();
        while !out.is_empty() {
            let before = out.len();
            let mut slices = [IoSlice::new(b""), IoSlice::new(b"")];
            let count = out.slices(&mut slices);
            assert!(count > 0);
            let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let part = step.min(all.len());
            written.extend_from_slice(&all[..part]);
            out.advance(part);
            assert_eq!(out.len(), before - part);
            if step == 3 && written.len() < 6 {
                // More may come while a write is under way.
                out.extend(b"");
            }
        }
        assert_eq!(written, whole, "in steps of {step}");
        assert_eq!(out.slices(&mut [IoSlice::new(b"")]), 0);
    }
}

#[test]
fn truncation_takes_back_what_was_not_written() {
    let whole = sample().to_vec();
    for total in 0..=whole.len() {
        for written in 0..=whole.len() {
            let mut out = sample();
            out.advance(written);
            out.truncate(total);
            let kept = total.max(written);
            assert_eq!(out.total(), kept, "to {total} after {written}");
            assert_eq!(out.to_vec(), &whole[written..kept]);
            out.extend(b"!");
            assert_eq!(out.to_vec(), [&whole[written..kept], b"!"].concat());
        }
    }
}

#[test]
fn clearing_keeps_only_modest_capacity() {
    let mut out = Output::new();
    out.extend(&vec![0; 10 * Output::KEPT_CAPACITY]);
    out.clear();
    assert!(out.is_empty() && out.capacity() <= Output::KEPT_CAPACITY);
    out.extend(b"again");
    assert_eq!(out.to_vec(), b"again");
}
