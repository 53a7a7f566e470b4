//! The one place that knows how small, rarely sent messages are serialised.
//!
//! Everything that is not a hot path goes through here: handshakes, heartbeats, plans, the state
//! file. The library behind it is pinned and archived; replacing it touches this file only. Both
//! directions have a size limit, and nothing is allocated on the word of a length field.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// No message of this kind is longer, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A message that is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// The bytes of `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Malformed> {
    bincode::serde::encode_to_vec(message, config()).map_err(|error| Malformed(error.to_string()))
}

/// The message `bytes` are; they must be all of it and nothing else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Malformed(format!("{} bytes are more than {MESSAGE_BYTES_MAX}", bytes.len())));
    }
    let (message, used) =
        bincode::serde::decode_from_slice(bytes, config()).map_err(|error| Malformed(error.to_string()))?;
    if used != bytes.len() {
        return Err(Malformed(format!("{} bytes are left over", bytes.len() - used)));
    }
    Ok(message)
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>()
}
