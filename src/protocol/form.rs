//! How a request wants to be answered: made while decoding, used when the outcome is known.
//!
//! A [`Form`] is small, borrows from the request and knows the protocol, so that the code that
//! executes requests never asks which one it is. Rendering is pure: outcome in, bytes out.

use std::borrow::Cow;

use crate::command::{Command, Now, Outcome, Refusal};

use super::{Output, binary, meta, text};

/// How to answer a request. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Form<'b>(pub(super) Kind<'b>);

#[derive(Clone, Debug)]
pub(super) enum Kind<'b> {
    Text(text::Form),
    Meta(meta::Form<'b>),
    Binary(binary::Form),
}

impl Form<'_> {
    /// Writes what became of an item command.
    #[inline]
    pub fn render(&self, command: &Command<'_>, outcome: Outcome<'_>, now: Now, out: &mut Output) {
        match &self.0 {
            Kind::Text(form) => form.render(command, outcome, out),
            Kind::Meta(form) => form.render(command, &outcome, now, out),
            Kind::Binary(form) => form.render(command, &outcome, out),
        }
    }

    /// Whether the client may get an answer at all (`false` for `noreply`; quiet commands may).
    pub const fn replies(&self) -> bool {
        match &self.0 {
            Kind::Text(form) => form.replies(),
            Kind::Meta(form) => form.replies(),
            Kind::Binary(form) => form.replies(),
        }
    }

    /// Whether answers are packets rather than lines.
    pub const fn is_binary(&self) -> bool {
        matches!(self.0, Kind::Binary(_))
    }

    /// Whether it answers a meta command.
    pub const fn is_meta(&self) -> bool {
        matches!(self.0, Kind::Meta(_))
    }

    /// The request could not be executed: `SERVER_ERROR reason`. Quiet commands hear it too, `noreply`
    /// does not; a multiget hears it once, in place of its `END`.
    pub fn refuse(&self, reason: &str, out: &mut Output) {
        match &self.0 {
            Kind::Text(form) if !form.may_fail() => {}
            Kind::Binary(form) => form.error(binary::Status::TemporaryFailure, reason.as_bytes(), out),
            _ => self.words("SERVER_ERROR ", reason, out),
        }
    }

    /// The request makes no sense to the server: `CLIENT_ERROR reason`. In the binary protocol, statistics
    /// that make none are statistics that there are not.
    pub fn client_error(&self, reason: &str, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) if form.is_stat() => form.error(binary::Status::NotFound, b"Not found", out),
            Kind::Binary(form) => form.error(binary::Status::InvalidArguments, reason.as_bytes(), out),
            _ => self.words("CLIENT_ERROR ", reason, out),
        }
    }

    /// There is no such thing: `ERROR`; in the binary protocol `Not found` for statistics and
    /// `Unknown command` for others (SASL on a server without).
    pub fn unknown(&self, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) if form.is_stat() => form.error(binary::Status::NotFound, b"Not found", out),
            Kind::Binary(form) => form.error(binary::Status::UnknownCommand, b"Unknown command", out),
            _ => self.words("ERROR", "", out),
        }
    }

    /// A line of text as it is; a binary client gets it as the body of a successful packet.
    pub fn line(&self, line: &str, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) => form.success(b"", line.as_bytes(), out),
            _ => self.words(line, "", out),
        }
    }

    /// Done, which a text client hears as `word` (`OK`, `RESET`) and a binary client as an empty packet
    /// (or not at all, if quiet).
    pub fn done(&self, word: &str, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) => form.done(out),
            _ => self.words(word, "", out),
        }
    }

    /// Answers `version`.
    pub fn version(&self, version: &str, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) => form.success(b"", version.as_bytes(), out),
            _ => self.words("VERSION ", version, out),
        }
    }

    /// One statistic.
    pub fn stat(&self, name: &str, value: &str, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) => form.success(name.as_bytes(), value.as_bytes(), out),
            _ if self.replies() => {
                for part in ["STAT ", name, " ", value, "\r\n"] {
                    out.extend(part.as_bytes());
                }
            }
            _ => {}
        }
    }

    /// The end of statistics.
    pub fn stat_end(&self, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) => form.success(b"", b"", out),
            _ => self.words("END", "", out),
        }
    }

    /// Answers `quit`: only the binary protocol's loud form says something.
    pub fn goodbye(&self, out: &mut Output) {
        if let Kind::Binary(form) = &self.0 {
            form.done(out);
        }
    }

    /// `flush_all` is switched off (`-F`).
    pub fn flush_forbidden(&self, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) => form.error(binary::Status::AuthError, b"Auth failure.", out),
            _ => self.words("CLIENT_ERROR flush_all not allowed", "", out),
        }
    }

    /// SASL: the mechanisms, separated by blanks.
    pub fn sasl_mechanisms(&self, mechanisms: &str, out: &mut Output) {
        self.line(mechanisms, out);
    }

    /// SASL: the client is who it says.
    pub fn authenticated(&self, out: &mut Output) {
        self.line("Authenticated", out);
    }

    /// SASL: it is not, or it has not said yet.
    pub fn auth_failure(&self, out: &mut Output) {
        match &self.0 {
            Kind::Binary(form) => form.error(binary::Status::AuthError, b"Auth failure.", out),
            _ => self.words("CLIENT_ERROR unauthenticated", "", out),
        }
    }

    /// What a store that was refused before its body came is told when that was thrown away.
    pub(super) fn store_refusal(&self, why: Refusal) -> Cow<'static, [u8]> {
        match (&self.0, why) {
            (Kind::Binary(form), why) => Cow::Owned(form.store_refusal(why)),
            _ if !self.replies() => Cow::Borrowed(b""),
            (_, Refusal::TooLarge) => Cow::Borrowed(text::TOO_LARGE),
            (_, Refusal::OutOfMemory) => Cow::Borrowed(text::NO_MEMORY_STORE),
        }
    }

    /// A line for text and meta clients, unless they want none.
    fn words(&self, first: &str, second: &str, out: &mut Output) {
        if self.replies() {
            out.extend(first.as_bytes());
            out.extend(second.as_bytes());
            out.extend(b"\r\n");
        }
    }
}
