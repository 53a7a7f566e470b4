//! What a request is about, before anybody knows whether it is one: for whoever has memory fetched ahead.

use super::words::graphic;

/// The opcode that begins binary requests.
const MAGIC: u8 = 0x80;
/// Bytes of a binary request before extras and key.
const HEADER: usize = 24;
/// Longest word that a command with a key begins with.
const VERB_MAX: usize = 8;
/// Longest key there is.
const KEY_MAX: usize = 250;

/// The key that these bytes seem to be about, if they are the beginning of a request in any protocol: a guess,
/// which may be wrong.
#[inline]
pub fn likely_key(input: &[u8]) -> Option<&[u8]> {
    let key = match input {
        [MAGIC, _, high, low, extras, ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            input.get(HEADER + usize::from(*extras)..)?.get(..len)?
        }
        _ => {
            let [b' ', words @ ..] = input.get(graphic(input.get(..VERB_MAX).unwrap_or(input))..)? else {
                return None;
            };
            words.get(..graphic(words.get(..=KEY_MAX).unwrap_or(words)))?
        }
    };
    (1..=KEY_MAX).contains(&key.len()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_every_protocol() {
        for text in ["get key\r\n", "set key 0 0 1\r\nx\r\n", "gats 0 key\r\n", "mg key v\r\n", "incr key"] {
            let expected: &[u8] = if text.starts_with("gats") { b"0" } else { b"key" };
            assert_eq!(likely_key(text.as_bytes()), Some(expected), "{text}");
        }
        let mut binary = vec![0x80, 1, 0, 3, 8];
        binary.resize(HEADER + 8, 0);
        assert_eq!(likely_key(&binary), None, "a key that is not there yet");
        binary.extend(b"keyvalue");
        assert_eq!(likely_key(&binary), Some(&b"key"[..]));
    }

    #[test]
    fn what_is_no_request_has_no_key() {
        let long = [b"get ".as_slice(), &[b'k'; 251]].concat();
        for bytes in
            [&b""[..], b"get", b"get ", b"get \r\n", b"\r\n", b"\x80", b"\x80\x01\xff\xff\xff", &long]
        {
            assert_eq!(likely_key(bytes), None, "{bytes:?}");
        }
    }
}
