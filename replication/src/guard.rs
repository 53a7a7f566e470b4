//! What lies between frames and the wire: nothing, records under the pair's key, or TLS.
//!
//! With a pre-shared key every byte behind the proofs travels in *records*:
//!
//! ```text
//!  0        4
//!  | length | length bytes of ciphertext | 16 bytes of tag |
//! ```
//! AES-256-GCM, with a key of its own for each direction of each connection (HKDF-SHA256 of the
//! pre-shared key, salted with both openings, which hold both nonces), and the number of the record as
//! nonce. So a record that was changed, dropped, repeated, moved, or taken from another connection or
//! the other direction does not open, and the connection ends. Items are hidden from the wire, too;
//! but whoever learns the key later can read what was recorded before: TLS has an answer to that.
//!
//! The promise: what comes out was put in by the other end, once and in this order; and not more than
//! one record is buffered on the word of a length. Pure: bytes in, bytes out.

use std::fmt;
use std::io::Read as _;

use bytes::{Buf, BufMut, BytesMut};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use tokio_rustls::rustls;

/// Of a record's content.
const RECORD_BYTES_MAX: usize = 64 << 10;
const LENGTH_BYTES: usize = 4;
/// Behind the content of each record.
pub const TAG_BYTES: usize = 16;

/// Why what came over the wire is not what the peer sent. The connection is of no more use.
#[derive(Debug)]
pub enum GuardError {
    /// It does not fit the key: changed on its way, repeated, or out of order.
    Forged,
    /// A record longer than any that is sent.
    TooLong(usize),
    /// TLS says so.
    Tls(rustls::Error),
}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forged => {
                f.write_str("bytes that the peer did not send so: somebody meddles with the link")
            }
            Self::TooLong(bytes) => write!(f, "a record of {bytes} bytes, the limit is {RECORD_BYTES_MAX}"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
        }
    }
}

impl std::error::Error for GuardError {}

impl From<rustls::Error> for GuardError {
    fn from(why: rustls::Error) -> Self {
        Self::Tls(why)
    }
}

/// The keys of one connection, seen from one end.
pub struct Sealed {
    ours: Direction,
    theirs: Direction,
}

struct Direction {
    key: LessSafeKey,
    /// Records so far.
    number: u64,
}

impl Direction {
    fn new(secret: &[u8], salt: &[u8], label: &[u8]) -> Self {
        let secret = Salt::new(HKDF_SHA256, salt).extract(secret);
        #[expect(clippy::expect_used, reason = "one block of output is never too long")]
        let key = UnboundKey::from(secret.expand(&[label], &AES_256_GCM).expect("one block"));
        Self { key: LessSafeKey::new(key), number: 0 }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Sealed {
    /// Both directions' keys. `openings`: what both sides said first, the dialler's in front; they are
    /// never the same twice.
    pub(crate) fn new(secret: &[u8], openings: &[&[u8]; 2], dialled: bool) -> Self {
        let salt = openings.concat();
        let dialler = Direction::new(secret, &salt, b"tandem from the dialler");
        let acceptor = Direction::new(secret, &salt, b"tandem from the acceptor");
        match dialled {
            true => Self { ours: dialler, theirs: acceptor },
            false => Self { ours: acceptor, theirs: dialler },
        }
    }

    /// Seals `bytes` where they are and puts the tag behind them.
    pub(crate) fn seal(&mut self, about: &[u8], bytes: &mut Vec<u8>) {
        let nonce = self.ours.nonce();
        #[expect(clippy::expect_used, reason = "the limit is 64 GiB")]
        self.ours.key.seal_in_place_append_tag(nonce, Aad::from(about), bytes).expect("short enough");
    }

    /// Opens what was sealed so, where it is.
    pub(crate) fn open<'a>(&mut self, about: &[u8], bytes: &'a mut [u8]) -> Result<&'a [u8], GuardError> {
        let nonce = self.theirs.nonce();
        let opened = self.theirs.key.open_in_place(nonce, Aad::from(about), bytes);
        opened.map(|plain| &*plain).map_err(|_| GuardError::Forged)
    }

    fn seal_records(&mut self, plain: &mut BytesMut, wire: &mut BytesMut) {
        while !plain.is_empty() {
            let length = plain.len().min(RECORD_BYTES_MAX);
            let head = (length as u32).to_le_bytes();
            wire.reserve(LENGTH_BYTES + length + TAG_BYTES);
            wire.put_slice(&head);
            let start = wire.len();
            wire.put_slice(&plain[..length]);
            plain.advance(length);
            let nonce = self.ours.nonce();
            #[expect(clippy::expect_used, reason = "the limit is 64 GiB")]
            let tag = self
                .ours
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(&head), &mut wire[start..])
                .expect("short enough");
            wire.put_slice(tag.as_ref());
        }
    }

    fn open_records(&mut self, wire: &mut BytesMut, plain: &mut BytesMut) -> Result<(), GuardError> {
        while let Some(head) = wire.first_chunk::<LENGTH_BYTES>().copied() {
            let length = u32::from_le_bytes(head) as usize;
            if length > RECORD_BYTES_MAX {
                return Err(GuardError::TooLong(length));
            }
            let whole = LENGTH_BYTES + length + TAG_BYTES;
            if wire.len() < whole {
                break;
            }
            let mut record = wire.split_to(whole);
            plain.put_slice(self.open(&head, &mut record[LENGTH_BYTES..])?);
        }
        Ok(())
    }
}

/// What guards a connection. Never prints a key.
#[derive(Default)]
pub enum Guard {
    /// Nothing: bytes are as they are. Only with neither key nor certificates.
    #[default]
    Open,
    /// The pair's key.
    Sealed(Box<Sealed>),
    /// Certificates.
    Tls(Box<rustls::Connection>),
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Sealed(_) => "Sealed",
            Self::Tls(_) => "Tls",
        })
    }
}

impl Guard {
    /// Takes what is to be sent and puts what goes over the wire behind what waits there.
    pub fn seal(&mut self, plain: &mut BytesMut, wire: &mut BytesMut) -> Result<(), GuardError> {
        match self {
            Self::Open if wire.is_empty() => std::mem::swap(plain, wire),
            Self::Open => wire.unsplit(plain.split()),
            Self::Sealed(sealed) => sealed.seal_records(plain, wire),
            Self::Tls(session) => {
                // Its own buffer is bounded: in turns.
                loop {
                    let taken = std::io::Write::write(&mut session.writer(), plain).unwrap_or(0);
                    plain.advance(taken);
                    let mut written = 0;
                    while session.wants_write() {
                        written += session.write_tls(&mut wire.writer()).unwrap_or(0);
                    }
                    if plain.is_empty() || taken + written == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes what came over the wire, as far as it makes whole records, and puts what the peer sent
    /// behind what was not used yet.
    pub fn open(&mut self, wire: &mut BytesMut, plain: &mut BytesMut) -> Result<(), GuardError> {
        match self {
            Self::Open if plain.is_empty() => std::mem::swap(plain, wire),
            Self::Open => plain.unsplit(wire.split()),
            Self::Sealed(sealed) => sealed.open_records(wire, plain)?,
            Self::Tls(session) => {
                while !wire.is_empty() {
                    let taken = session.read_tls(&mut wire.reader()).unwrap_or(0);
                    let state = session.process_new_packets()?;
                    let start = plain.len();
                    plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    let read = session.reader().read(&mut plain[start..]).unwrap_or(0);
                    plain.truncate(start + read);
                    if taken + read == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// TLS has not agreed on anything yet.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(session) if session.is_handshaking())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(secret: &[u8]) -> (Guard, Guard) {
        let end = |dialled| Guard::Sealed(Box::new(Sealed::new(secret, &[b"one", b"two"], dialled)));
        (end(true), end(false))
    }

    fn wire_of(guard: &mut Guard, messages: &[&[u8]]) -> BytesMut {
        let mut wire = BytesMut::new();
        for message in messages {
            guard.seal(&mut BytesMut::from(*message), &mut wire).expect("it takes anything");
        }
        wire
    }

    fn opened(guard: &mut Guard, wire: &[u8]) -> Result<BytesMut, GuardError> {
        let (mut wire, mut plain) = (BytesMut::from(wire), BytesMut::new());
        guard.open(&mut wire, &mut plain).map(|()| plain)
    }

    #[test]
    fn bytes_come_out_as_they_went_in_however_the_wire_cuts_them() {
        let long = vec![7; RECORD_BYTES_MAX * 2 + 1];
        for piece in [1, 3, 20, 70_000, 1 << 20] {
            let (mut a, mut b) = pair(b"sesame");
            let wire = wire_of(&mut a, &[b"hello", &long, b"world"]);
            assert!(!wire.windows(5).any(|window| window == b"hello"), "it is hidden");
            let (mut input, mut plain) = (BytesMut::new(), BytesMut::new());
            for piece in wire.chunks(piece) {
                input.extend_from_slice(piece);
                b.open(&mut input, &mut plain).expect("untouched");
            }
            assert_eq!(plain, [b"hello", &long[..], b"world"].concat());
        }
    }

    #[test]
    fn a_changed_bit_ends_the_connection_wherever_it_is() {
        let (mut a, _) = pair(b"sesame");
        let wire = wire_of(&mut a, &[b"a message"]);
        for bit in 0..wire.len() * 8 {
            let mut changed = wire.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (_, mut b) = pair(b"sesame");
            // A longer length waits for bytes that then do not fit.
            changed.extend_from_slice(&[0; 2 * RECORD_BYTES_MAX]);
            assert!(opened(&mut b, &changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_fits_once_in_its_place_and_its_direction_only() {
        let (mut a, mut b) = pair(b"sesame");
        let (first, second) = (wire_of(&mut a, &[b"first"]), wire_of(&mut a, &[b"second"]));
        assert_eq!(opened(&mut b, &first).expect("untouched"), &b"first"[..]);
        assert!(opened(&mut b, &first).is_err(), "repeated");
        let (_, mut b) = pair(b"sesame");
        assert!(opened(&mut b, &second).is_err(), "one is missing");
        let (mut reflected, _) = pair(b"sesame");
        assert!(opened(&mut reflected, &first).is_err(), "sent back to its sender");
        let other = Sealed::new(b"sesame", &[b"one", b"three"], false);
        assert!(opened(&mut Guard::Sealed(Box::new(other)), &first).is_err(), "another connection");
        let (_, mut stranger) = pair(b"other");
        assert!(opened(&mut stranger, &first).is_err(), "another key");
    }

    #[test]
    fn an_impossible_length_is_refused_before_its_bytes_arrive() {
        let (_, mut b) = pair(b"sesame");
        let length = (RECORD_BYTES_MAX as u32 + 1).to_le_bytes();
        assert!(matches!(opened(&mut b, &length), Err(GuardError::TooLong(_))));
    }
}
