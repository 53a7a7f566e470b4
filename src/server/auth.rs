//! Who may come in: users and passwords from a file, for `-Y` (text) and `-S` (SASL PLAIN).
//!
//! A comparison looks at every user and every byte whatever the answer, so that time tells nothing.
//! SIGHUP reads the file again; a file that cannot be read leaves the old users in force.
//!
//! Who has not said yet who it is has an `Entrance`: a moment by which it must have, and a number of bytes.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use subtle::{Choice, ConstantTimeEq};
use tokio::time::Instant;

use super::limits;

/// Users and their passwords.
#[derive(Debug, Default)]
pub struct Auth {
    file: Option<PathBuf>,
    users: RwLock<Vec<User>>,
}

/// Padded to one length, so that comparing takes one time.
#[derive(Clone)]
struct User {
    name: Padded,
    password: Padded,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User")
    }
}

#[derive(Clone)]
struct Padded {
    bytes: [u8; limits::AUTH_LINE_BYTES + 1],
    len: u64,
}

impl Padded {
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; limits::AUTH_LINE_BYTES + 1];
        let kept = text.len().min(bytes.len());
        bytes[..kept].copy_from_slice(&text[..kept]);
        Self { bytes, len: text.len() as u64 }
    }

    fn equals(&self, other: &Self) -> Choice {
        #[cfg(test)]
        tests::COMPARED.with(|compared| compared.set(compared.get() + self.bytes.len()));
        self.bytes.ct_eq(&other.bytes) & self.len.ct_eq(&other.len)
    }
}

impl Auth {
    /// Everybody may come in.
    pub fn open() -> Self {
        Self::default()
    }

    /// Only users of this file may.
    pub fn from_file(file: PathBuf) -> Result<Self, String> {
        let users = read(&file)?;
        Ok(Self { file: Some(file), users: RwLock::new(users) })
    }

    /// Whether clients have to say who they are.
    pub const fn is_required(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again. On an error the old users stay.
    pub fn reload(&self) -> Result<(), String> {
        if let Some(file) = &self.file {
            let users = read(file)?;
            *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        }
        Ok(())
    }

    /// Whether this is one of the users, with its password.
    pub fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        let (user, password) = (Padded::new(user), Padded::new(password));
        let mut known = Choice::from(0);
        for other in self.users.read().unwrap_or_else(PoisonError::into_inner).iter() {
            known |= user.equals(&other.name) & password.equals(&other.password);
        }
        known.into()
    }
}

fn read(file: &std::path::Path) -> Result<Vec<User>, String> {
    let text = std::fs::read(file).map_err(|error| {
        format!(
            "the authentication file {} cannot be read: {error}; it holds lines of user:password",
            file.display()
        )
    })?;
    let mut users = Vec::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let problem =
            |what: &str| format!("{}:{}: {what}; a line is user:password", file.display(), number + 1);
        if line.len() > limits::AUTH_LINE_BYTES {
            return Err(problem("the line is longer than 255 bytes"));
        }
        let colon = line.iter().position(|&byte| byte == b':').ok_or_else(|| problem("there is no colon"))?;
        users.push(User { name: Padded::new(&line[..colon]), password: Padded::new(&line[colon + 1..]) });
    }
    if users.is_empty() {
        return Err(format!(
            "the authentication file {} has no users; it holds lines of user:password",
            file.display()
        ));
    }
    if users.len() > limits::AUTH_USERS {
        tracing::warn!(file = %file.display(), "only the first {} users count, as in memcached; those behind them cannot log in", limits::AUTH_USERS);
        users.truncate(limits::AUTH_USERS);
    }
    Ok(users)
}

/// What is left to a client until it has said who it is.
#[derive(Debug)]
pub(super) struct Entrance {
    /// When its time is over. Bytes do not renew it.
    pub(super) closes: Instant,
    /// Bytes it may still send.
    pub(super) bytes: usize,
}

impl Entrance {
    /// For a client that came now.
    pub(super) fn new() -> Self {
        Self { closes: Instant::now() + limits::ENTRANCE, bytes: limits::ENTRANCE_BYTES }
    }
}

/// What an unauthenticated text connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// Not whole yet.
    Incomplete,
    /// Nobody speaks like that.
    Close,
    /// Not a token.
    Refused { used: usize, line: &'static [u8] },
    /// The token of a `set`.
    Token { used: usize, token: &'a [u8] },
}

/// Reads `set KEY FLAGS EXPTIME BYTES`, whose data are the token. All of it takes at most `most` bytes.
pub(super) fn first_command(input: &[u8], most: usize) -> First<'_> {
    let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(most)]) else {
        return if input.len() >= most { First::Close } else { First::Incomplete };
    };
    if end + 1 < 6 {
        return First::Close;
    }
    let used = end + 1;
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    let words: Vec<&[u8]> =
        line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).take(6).collect();
    let len = match words[..] {
        [b"set", _, _, _, len, ..] => std::str::from_utf8(len).ok().and_then(|len| len.parse::<usize>().ok()),
        _ => None,
    };
    let Some(len) = len else { return First::Refused { used, line: b"CLIENT_ERROR unauthenticated\r\n" } };
    if len > most.saturating_sub(used + 2) {
        return First::Refused { used, line: b"CLIENT_ERROR auth token too long\r\n" };
    }
    let Some(data) = input.get(used..used + len + 2) else { return First::Incomplete };
    match data.split_at(len) {
        (token, b"\r\n") => First::Token { used: used + len + 2, token },
        _ => First::Refused { used: used + len + 2, line: b"CLIENT_ERROR bad command line termination\r\n" },
    }
}

/// `user password`.
pub(super) fn user_and_password(token: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = token.iter().position(|&byte| byte == b' ')?;
    Some((&token[..blank], &token[blank + 1..]))
}

/// SASL PLAIN: `authzid NUL user NUL password`.
pub(super) fn plain(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let _authorization = parts.next()?;
    Some((parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    thread_local! {
        /// Bytes that this thread compared.
        pub(super) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    #[test]
    fn every_answer_compares_every_byte_of_every_user() {
        let file = file("alice:secret\nbob:hunter2\ncarol:s3cr3t\n");
        let auth = Auth::from_file(file.path().into()).unwrap();
        let long = [b'x'; 5000];
        for (user, password) in [
            (&b"alice"[..], &b"secret"[..]),
            (b"carol", b"s3cr3t"),
            (b"alice", b"hunter2"),
            (b"alice", b"secre"),
            (b"nobody", b"secret"),
            (b"", b""),
            (&long, &long),
        ] {
            COMPARED.set(0);
            auth.admits(user, password);
            assert_eq!(COMPARED.get(), 3 * 2 * (limits::AUTH_LINE_BYTES + 1));
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn only_whole_names_and_passwords_are_admitted() {
        let file = file("alice:secret\nbob:\n");
        let auth = Auth::from_file(file.path().into()).unwrap();
        assert!(auth.admits(b"alice", b"secret"));
        assert!(auth.admits(b"bob", b""));
        for (user, password) in
            [("alice", "secre"), ("alice", "secret\0"), ("alic", "secret"), ("bob", "secret"), ("", "")]
        {
            assert!(!auth.admits(user.as_bytes(), password.as_bytes()), "{user} {password}");
        }
    }

    #[test]
    fn a_broken_file_leaves_the_users_as_they_were() {
        let file = file("alice:secret\n");
        let auth = Auth::from_file(file.path().into()).unwrap();
        std::fs::write(file.path(), "no colon\n").unwrap();
        assert!(auth.reload().unwrap_err().contains(":1: there is no colon"));
        assert!(auth.admits(b"alice", b"secret"));
        std::fs::write(file.path(), "carol:x").unwrap();
        auth.reload().unwrap();
        assert!(auth.admits(b"carol", b"x") && !auth.admits(b"alice", b"secret"));
    }

    #[test]
    fn the_first_command_is_a_token_or_refused() {
        let first = |input| first_command(input, 2048);
        assert_eq!(first(b"set a 0 0 3\r\nx"), First::Incomplete);
        assert_eq!(first(b"set a 0 0 3\r\nx y\r\n"), First::Token { used: 18, token: b"x y" });
        assert!(matches!(first(b"get foo\r\n"), First::Refused { used: 9, .. }));
        assert!(matches!(first(b"set a 0 0 3\r\nx yzz"), First::Refused { .. }));
        assert_eq!(first(b"\r\n"), First::Close);
    }

    #[test]
    fn what_takes_more_bytes_than_are_left_is_refused_before_it_is_here() {
        assert_eq!(first_command(&[b'a'; 2047], 2048), First::Incomplete);
        assert_eq!(first_command(&[b'a'; 2048], 2048), First::Close);
        assert_eq!(first_command(b"", 0), First::Close);
        let too_long = First::Refused { used: 13, line: b"CLIENT_ERROR auth token too long\r\n" };
        assert_eq!(
            first_command(b"set a 0 0 50\r\n", 64),
            First::Refused { used: 14, line: b"CLIENT_ERROR auth token too long\r\n" }
        );
        assert_eq!(first_command(b"set a 0 0 9\r\n", 23), too_long);
        assert_eq!(first_command(b"set a 0 0 9\r\n", 24), First::Incomplete);
        for length in ["16385", "18446744073709551615"] {
            let line = format!("set a 0 0 {length}\r\n");
            assert!(matches!(first_command(line.as_bytes(), 2048), First::Refused { .. }));
        }
    }
}
