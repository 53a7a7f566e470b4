//! The bytes of a snapshot.
//!
//! ```text
//! header  magic:8 | format:4 | engine seconds:4 | wall ms:8 | items:8 | crc:4
//! block   kind:1 | length:4 | crc:4 | payload          kind 1: changes, one behind the other
//!                                                      kind 2: the end; items in all:8
//! ```
//! Little endian. A block's CRC-32C also covers its number, so no block can be missing, doubled or
//! out of order; the end says how many items there were, so no tail can be missing. Changes are in
//! their one encoding (`tandem_replication::change`); deadlines in them are in the engine seconds of
//! the process that wrote them, which the header translates.

use std::fmt;
use std::io::{self, Read, Write};

use bytes::{Buf as _, BufMut as _};
use tandem_replication::change::{Change, DecodeError};

/// Eight bytes that say what the file is.
const MAGIC: [u8; 8] = *b"TANDEMws";
/// The format this build writes and the only one it reads.
pub const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 8 + 4;
const BLOCK_HEAD_BYTES: usize = 1 + 4 + 4;
const CHANGES: u8 = 1;
const END: u8 = 2;

/// When a snapshot was written, and roughly how much is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the writer's engine clock read.
    pub secs: u32,
    /// What its wall clock read: milliseconds since 2024-01-01T00:00:00Z.
    pub wall_ms: u64,
    /// Items there were when it began, expired ones included: for progress.
    pub items: u64,
}

/// Why a snapshot is not believed.
#[derive(Debug)]
pub enum Damage {
    /// It is no snapshot.
    Foreign,
    /// Another release wrote it.
    Format(u32),
    /// It ends in the middle.
    Truncated,
    /// A checksum does not match; in the block that begins at this byte.
    Checksum(u64),
    /// A block holds what no save writes; it begins at this byte.
    Content(u64, String),
    /// The number of items is not what the end says.
    Count {
        /// As counted.
        found: u64,
        /// As said.
        said: u64,
    },
    /// Something follows the end.
    Tail,
    /// It cannot be read.
    Read(io::Error),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => write!(f, "it was not written by this program"),
            Self::Format(format) => {
                write!(f, "it has format {format}, and this release reads format {FORMAT}")
            }
            Self::Truncated => write!(f, "it ends in the middle"),
            Self::Checksum(at) => write!(f, "it is damaged: a checksum does not match at byte {at}"),
            Self::Content(at, what) => write!(f, "it is damaged: {what} at byte {at}"),
            Self::Count { found, said } => write!(f, "it is damaged: {found} items where {said} were saved"),
            Self::Tail => write!(f, "it is damaged: something follows its end"),
            Self::Read(error) => write!(f, "it cannot be read: {error}"),
        }
    }
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read(error),
        }
    }
}

/// Writes a snapshot, block by block.
pub struct Writer<W> {
    target: W,
    blocks: u64,
    items: u64,
}

impl<W: Write> Writer<W> {
    /// Begins with the header.
    pub fn begin(mut target: W, header: Header) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(FORMAT);
        bytes.put_u32_le(header.secs);
        bytes.put_u64_le(header.wall_ms);
        bytes.put_u64_le(header.items);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        target.write_all(&bytes)?;
        Ok(Self { target, blocks: 0, items: 0 })
    }

    /// Appends encoded changes, `items` of which are items.
    pub fn changes(&mut self, encoded: &[u8], items: u64) -> io::Result<()> {
        self.items += items;
        self.block(CHANGES, encoded)
    }

    /// Ends it. Returns the target and how many items were written.
    pub fn end(mut self) -> io::Result<(W, u64)> {
        let items = self.items;
        self.block(END, &items.to_le_bytes())?;
        Ok((self.target, items))
    }

    fn block(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a block of 4 GiB or more"))?;
        let mut head = Vec::with_capacity(BLOCK_HEAD_BYTES);
        head.put_u8(kind);
        head.put_u32_le(length);
        head.put_u32_le(block_crc(self.blocks, kind, length, payload));
        self.blocks += 1;
        self.target.write_all(&head)?;
        self.target.write_all(payload)
    }
}

fn block_crc(number: u64, kind: u8, length: u32, payload: &[u8]) -> u32 {
    let mut head = [0; 13];
    head[..8].copy_from_slice(&number.to_le_bytes());
    head[8] = kind;
    head[9..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// Reads a snapshot, block by block; holds one block.
pub struct Reader<R> {
    source: R,
    /// Bytes read so far, to say where damage is.
    at: u64,
    blocks: u64,
    items: u64,
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads and checks the header.
    pub fn begin(mut source: R) -> Result<(Self, Header), Damage> {
        let mut bytes = [0; HEADER_BYTES];
        // The magic first: a short foreign file is foreign, not truncated.
        let mut magic = Vec::new();
        (&mut source).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic != MAGIC {
            return Err(if MAGIC.starts_with(&magic) { Damage::Truncated } else { Damage::Foreign });
        }
        bytes[..MAGIC.len()].copy_from_slice(&magic);
        source.read_exact(&mut bytes[MAGIC.len()..])?;
        let (checked, mut crc) = bytes.split_at(HEADER_BYTES - 4);
        let mut fields = &checked[MAGIC.len()..];
        let format = fields.get_u32_le();
        if format != FORMAT {
            return Err(Damage::Format(format));
        }
        if crc.get_u32_le() != crc32c::crc32c(checked) {
            return Err(Damage::Checksum(0));
        }
        let header =
            Header { secs: fields.get_u32_le(), wall_ms: fields.get_u64_le(), items: fields.get_u64_le() };
        let reader = Self { source, at: HEADER_BYTES as u64, blocks: 0, items: 0, payload: Vec::new() };
        Ok((reader, header))
    }

    /// Hands out every change of the next block, of which nothing is handed out unless its checksum
    /// matches. `false` at the end, when everything was there.
    pub fn next_block(&mut self, each: &mut dyn FnMut(&Change<'_>)) -> Result<bool, Damage> {
        let begin = self.at;
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.source.read_exact(&mut head)?;
        let mut fields = &head[..];
        let (kind, length, crc) = (fields.get_u8(), fields.get_u32_le(), fields.get_u32_le());
        self.payload.clear();
        // Grows with what comes, not with what is announced.
        let came = (&mut self.source).take(u64::from(length)).read_to_end(&mut self.payload)?;
        if came < length as usize {
            return Err(Damage::Truncated);
        }
        if crc != block_crc(self.blocks, kind, length, &self.payload) {
            return Err(Damage::Checksum(begin));
        }
        self.at += (BLOCK_HEAD_BYTES + came) as u64;
        self.blocks += 1;
        match kind {
            CHANGES => self.hand_out(begin, each).map(|()| true),
            END => self.finish(begin).map(|()| false),
            unknown => Err(Damage::Content(begin, format!("a block of unknown kind {unknown}"))),
        }
    }

    fn hand_out(&mut self, begin: u64, each: &mut dyn FnMut(&Change<'_>)) -> Result<(), Damage> {
        for change in Change::decode_all(&self.payload) {
            let change = change.map_err(|error: DecodeError| Damage::Content(begin, error.to_string()))?;
            match change {
                Change::Put(_) => self.items += 1,
                Change::FlushAt { .. } => {}
                Change::Touch { .. } | Change::Delete { .. } | Change::Flush { .. } => {
                    return Err(Damage::Content(begin, "a change that is no item".to_owned()));
                }
            }
            each(&change);
        }
        Ok(())
    }

    fn finish(&mut self, begin: u64) -> Result<(), Damage> {
        let said = <[u8; 8]>::try_from(&self.payload[..])
            .map_err(|_| Damage::Content(begin, "an end of the wrong length".to_owned()))?;
        let (found, said) = (self.items, u64::from_le_bytes(said));
        if found != said {
            return Err(Damage::Count { found, said });
        }
        match self.source.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(Damage::Tail),
        }
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("at", &self.at).field("items", &self.items).finish_non_exhaustive()
    }
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("items", &self.items).finish_non_exhaustive()
    }
}
