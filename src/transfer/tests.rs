use super::file::{Item, Reader, Writer};
use super::*;

fn item(key: &[u8], value: &[u8], expires: u64) -> Item {
    Item { key: key.to_vec(), flags: 7, expires, value: value.to_vec() }
}

fn file(items: &[Item]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), 1_790_000_000, "a:1").unwrap();
    for item in items {
        writer.item(item).unwrap();
    }
    writer.end().unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let mut reader = Reader::new(bytes)?;
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        items.push(item);
    }
    Ok(items)
}

#[test]
fn what_is_written_is_read_again() {
    let items = [item(b"a", b"", 0), item(b"b c\x00\xff%", b"line\r\nline\n\x00", 1_800_000_000)];
    let bytes = file(&items);
    assert_eq!(read(&bytes).unwrap(), items);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with(
        "tandem-dump 1 at=1790000000 from=a:1\nitem a 7 0 0 \nitem b%20c%00%FF%25 7 1800000000 12 "
    ));
    assert_eq!(read(&file(&[])).unwrap(), []);
}

#[test]
fn a_file_that_was_cut_off_or_changed_is_refused() {
    let bytes = file(&[item(b"key", b"value", 0), item(b"other", b"value", 0)]);
    for end in 0..bytes.len() {
        let error = read(&bytes[..end]).unwrap_err();
        assert!(error.contains("cut off"), "{end}: {error}");
    }
    // Whichever byte changes, it is seen; a date in the head included.
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(read(&changed).is_err(), "byte {at}");
    }
    assert!(read(b"memcached\n").unwrap_err().contains("no file of `tandemctl dump`"));
    assert!(read(b"tandem-dump 2 at=1\n").unwrap_err().contains("later version"));
}

#[test]
fn keys_of_any_bytes_survive_as_text() {
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(unescape(escape(&all).as_bytes()), Some(all));
    for bad in ["%", "%0", "%zz"] {
        assert_eq!(unescape(bad.as_bytes()), None, "{bad}");
    }
}
