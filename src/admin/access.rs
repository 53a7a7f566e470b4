//! Who may change something: whoever knows the token or, without one, whoever is on the machine.
//!
//! A web page is never trusted for being opened on the machine: a browser sends requests for any page.
//! With the token in its hand it is as good as anybody.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, ORIGIN};
use subtle::ConstantTimeEq as _;

/// A shorter token can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// A longer one is a wrong file.
const TOKEN_BYTES_MAX: usize = 256;

/// The rule of one admin port.
#[derive(Debug, Default)]
pub struct Access {
    file: Option<PathBuf>,
    token: RwLock<Option<Token>>,
}

/// A secret in a form whose comparison takes the same time whatever is compared.
#[derive(Clone)]
struct Token {
    bytes: [u8; TOKEN_BYTES_MAX],
    len: u64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self { bytes, len: text.len() as u64 })
    }

    fn is(&self, other: &Self) -> bool {
        (self.bytes.ct_eq(&other.bytes) & self.len.ct_eq(&other.len)).into()
    }
}

/// The token in that file, without the blanks around it.
pub fn read_token(path: &Path) -> Result<String, String> {
    let name = path.display();
    let text =
        std::fs::read(path).map_err(|why| format!("token file {name}: {why}; let this user read it"))?;
    let token = text.trim_ascii();
    let is_plain = token.iter().all(u8::is_ascii_graphic);
    match token.len() {
        0..TOKEN_BYTES_MIN => Err(format!(
            "token file {name}: a token of {} bytes can be guessed; make one with `tandemctl genkey`",
            token.len()
        )),
        TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX if is_plain => Ok(String::from_utf8_lossy(token).into_owned()),
        _ => Err(format!(
            "token file {name}: a token is one line of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and signs; make one with `tandemctl genkey`"
        )),
    }
}

impl Access {
    /// The rule for that token file, if there is one.
    pub fn new(file: Option<&Path>) -> Result<Self, String> {
        let access = Self { file: file.map(Path::to_owned), token: RwLock::default() };
        access.reload()?;
        Ok(access)
    }

    /// Reads the token again. If that fails, the one before stays in force.
    pub fn reload(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let token = Token::new(read_token(file)?.as_bytes());
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }

    /// Whether a token is asked for.
    pub fn needs_token(&self) -> bool {
        self.file.is_some()
    }

    /// Why a control request with these headers from there is refused, if it is.
    pub(super) fn refusal(&self, headers: &HeaderMap, client: IpAddr) -> Option<(StatusCode, String)> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(token) = token else { return refusal_without_token(headers, client) };
        let sent = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let Some(sent) = sent.and_then(|value| value.strip_prefix(b"Bearer ")) else {
            let text =
                "control requests need the token of --admin-token-file: send `Authorization: Bearer TOKEN`";
            return Some((StatusCode::UNAUTHORIZED, text.to_owned()));
        };
        let known = Token::new(sent.trim_ascii()).is_some_and(|sent| token.is(&sent));
        let wrong = "this is not the token of this node's --admin-token-file";
        (!known).then(|| (StatusCode::UNAUTHORIZED, wrong.to_owned()))
    }
}

fn refusal_without_token(headers: &HeaderMap, client: IpAddr) -> Option<(StatusCode, String)> {
    let text = if !client.to_canonical().is_loopback() {
        "without --admin-token-file control requests are taken from this machine only: run tandemctl on the node itself"
    } else if headers.contains_key(ORIGIN) {
        "without --admin-token-file control requests are not taken from web pages: use tandemctl"
    } else {
        return None;
    };
    Some((StatusCode::FORBIDDEN, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use hyper::header::HeaderValue;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn with(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    fn code(access: &Access, headers: &HeaderMap, client: IpAddr) -> Option<u16> {
        access.refusal(headers, client).map(|(code, _)| code.as_u16())
    }

    #[test]
    fn without_a_token_only_the_machine_itself_is_heard() {
        let access = Access::new(None).unwrap();
        assert_eq!(code(&access, &HeaderMap::new(), HERE), None);
        assert_eq!(code(&access, &HeaderMap::new(), THERE), Some(403));
        assert_eq!(code(&access, &with(ORIGIN, "http://127.0.0.1:11213"), HERE), Some(403));
    }

    #[test]
    fn with_a_token_nothing_but_the_token_counts() {
        let token = "0123456789abcdef0123";
        let file = file(&format!("  {token}\n"));
        let access = Access::new(Some(file.path())).unwrap();
        let bearer = |text: &str| with(AUTHORIZATION, &format!("Bearer {text}"));
        for client in [HERE, THERE] {
            assert_eq!(code(&access, &bearer(token), client), None);
            assert_eq!(code(&access, &HeaderMap::new(), client), Some(401));
        }
        let long = "x".repeat(9000);
        for wrong in ["", "0123456789abcdef012", "0123456789abcdef01234", "0123456789abcdef0124", &long] {
            assert_eq!(code(&access, &bearer(wrong), HERE), Some(401), "{wrong}");
        }
        let basic = with(AUTHORIZATION, &format!("Basic {token}"));
        assert_eq!(code(&access, &basic, HERE), Some(401));
        let mut page = bearer(token);
        page.insert(ORIGIN, HeaderValue::from_static("http://192.0.2.11:11213"));
        assert_eq!(code(&access, &page, THERE), None, "a page that has the token");
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused_and_the_old_one_stays() {
        let file = file("0123456789abcdef");
        let access = Access::new(Some(file.path())).unwrap();
        for (text, complaint) in [
            ("short", "can be guessed"),
            ("", "can be guessed"),
            (&"x".repeat(257), "one line of"),
            ("two words of a token", "one line of"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let problem = access.reload().unwrap_err();
            assert!(problem.contains(complaint) && problem.contains("token file"), "{problem}");
        }
        assert_eq!(code(&access, &with(AUTHORIZATION, "Bearer 0123456789abcdef"), HERE), None);
        std::fs::write(file.path(), "fedcba9876543210").unwrap();
        access.reload().unwrap();
        assert_eq!(code(&access, &with(AUTHORIZATION, "Bearer 0123456789abcdef"), HERE), Some(401));
        assert!(Access::new(Some(Path::new("/nonexistent"))).is_err());
    }
}
