//! Reads request heads (RFC 9112 sections 2 to 6), byte by byte.
//!
//! Nothing but what decides the answer is kept, so a head of any length costs a connection the same few hundred
//! bytes, and one that arrives in pieces is looked at once. Lines may end in LF alone (section 2.2); everything else
//! that is not as the RFC wants it is refused.

use crate::request::{Body, Method, Page, Refusal, Request, Version};
use crate::response::Status;
use crate::text::Bytes;

/// Octets of the longest request line, its end not counted (RFC 9112 section 3 recommends at least 8000).
pub(crate) const REQUEST_LINE_MAX: u32 = 8000;
/// Octets of all fields together, line ends counted.
pub(crate) const FIELDS_OCTETS_MAX: u32 = 16 * 1024;
/// Fields.
pub(crate) const FIELDS_MAX: u32 = 100;
/// Octets of empty lines before a request line.
const BLANK_MAX: u32 = 64;

/// What a parser made of the bytes it was fed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The head goes on.
    More,
    /// The head is whole; the next byte belongs to the body or to the next request.
    Done(Request),
    /// The head is wrong: answer, and close.
    Refused(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before the request line.
    Blank,
    BlankLf,
    Method,
    Target,
    Version,
    LineLf,
    /// At the start of a line that may be a field or the end.
    Field,
    Name,
    /// Between the colon and the value.
    Space,
    Value,
    ValueLf,
    EndLf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Coding {
    Chunked,
    Unknown,
}

/// Reads one head.
#[derive(Clone, Copy, Debug)]
pub struct HeadParser {
    state: State,
    /// Octets of the request line, then of the fields.
    octets: u32,
    fields: u32,
    method: Bytes<8>,
    method_cut: bool,
    /// The target up to its query.
    target: Bytes<320>,
    target_cut: bool,
    in_query: bool,
    version_text: Bytes<8>,
    version: Version,
    name: Bytes<20>,
    name_cut: bool,
    value: Bytes<256>,
    value_cut: bool,
    hosts: u32,
    close: bool,
    keep_alive: bool,
    length: Option<u64>,
    coding: Option<Coding>,
    expects_continue: bool,
    expects_other: bool,
}

impl HeadParser {
    /// Before the first byte.
    pub const NEW: Self = Self {
        state: State::Blank,
        octets: 0,
        fields: 0,
        method: Bytes::EMPTY,
        method_cut: false,
        target: Bytes::EMPTY,
        target_cut: false,
        in_query: false,
        version_text: Bytes::EMPTY,
        version: Version::Http11,
        name: Bytes::EMPTY,
        name_cut: false,
        value: Bytes::EMPTY,
        value_cut: false,
        hosts: 0,
        close: false,
        keep_alive: false,
        length: None,
        coding: None,
        expects_continue: false,
        expects_other: false,
    };

    /// Whether the request line has not begun.
    pub fn is_blank(&self) -> bool {
        matches!(self.state, State::Blank | State::BlankLf)
    }

    /// Reads on, and returns how many bytes belong to this head. After [`Progress::Done`] or [`Progress::Refused`]
    /// start again with [`HeadParser::NEW`].
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Progress) {
        for (at, &byte) in bytes.iter().enumerate() {
            match self.step(byte) {
                Ok(None) => {}
                Ok(Some(request)) => return (at + 1, Progress::Done(request)),
                Err(refusal) => return (at + 1, Progress::Refused(refusal)),
            }
        }
        (bytes.len(), Progress::More)
    }

    fn step(&mut self, byte: u8) -> Result<Option<Request>, Refusal> {
        match self.state {
            State::Blank => match byte {
                b'\r' => self.blank(State::BlankLf)?,
                b'\n' => self.blank(State::Blank)?,
                _ => {
                    self.octets = 0;
                    self.state = State::Method;
                    self.in_method(byte)?;
                }
            },
            State::BlankLf => self.line_feed(byte, State::Blank)?,
            State::Method => self.in_method(byte)?,
            State::Target => self.in_target(byte)?,
            State::Version => self.in_version(byte)?,
            State::LineLf => {
                self.line_feed(byte, State::Field)?;
                self.end_of_line()?;
            }
            State::Field => {
                self.count_field_octet()?;
                match byte {
                    b'\r' => self.state = State::EndLf,
                    b'\n' => return self.finish().map(Some),
                    b' ' | b'\t' => return Err(Refusal::bad("a line starts with white space")),
                    _ => {
                        self.fields += 1;
                        if self.fields > FIELDS_MAX {
                            return Err(too_large("too many fields"));
                        }
                        (self.name_cut, self.value_cut) = (false, false);
                        self.name.clear();
                        self.value.clear();
                        self.state = State::Name;
                        self.in_name(byte)?;
                    }
                }
            }
            State::Name => {
                self.count_field_octet()?;
                self.in_name(byte)?;
            }
            State::Space | State::Value => {
                self.count_field_octet()?;
                self.in_value(byte)?;
            }
            State::ValueLf => {
                self.count_field_octet()?;
                self.line_feed(byte, State::Field)?;
                self.end_of_field()?;
            }
            State::EndLf => {
                self.line_feed(byte, State::EndLf)?;
                return self.finish().map(Some);
            }
        }
        Ok(None)
    }

    fn blank(&mut self, next: State) -> Result<(), Refusal> {
        self.octets += 1;
        self.state = next;
        if self.octets > BLANK_MAX { Err(Refusal::bad("nothing but empty lines")) } else { Ok(()) }
    }

    fn line_feed(&mut self, byte: u8, next: State) -> Result<(), Refusal> {
        self.state = next;
        if byte == b'\n' { Ok(()) } else { Err(Refusal::bad("a CR without LF")) }
    }

    fn count_line_octet(&mut self) -> Result<(), Refusal> {
        self.octets += 1;
        if self.octets <= REQUEST_LINE_MAX {
            return Ok(());
        }
        let status = if self.state == State::Method { Status::NotImplemented } else { Status::UriTooLong };
        Err(Refusal { status, why: "the request line is longer than 8000 octets" })
    }

    fn count_field_octet(&mut self) -> Result<(), Refusal> {
        self.octets += 1;
        if self.octets <= FIELDS_OCTETS_MAX {
            Ok(())
        } else {
            Err(too_large("the fields are longer than 16 KiB"))
        }
    }

    fn in_method(&mut self, byte: u8) -> Result<(), Refusal> {
        self.count_line_octet()?;
        match byte {
            b' ' if !self.method.is_empty() => self.state = State::Target,
            _ if is_token(byte) => self.method_cut |= !self.method.push(byte),
            _ => return Err(Refusal::bad("the method is not a token")),
        }
        Ok(())
    }

    fn in_target(&mut self, byte: u8) -> Result<(), Refusal> {
        match byte {
            b' ' if !self.target.is_empty() || self.in_query => {
                self.count_line_octet()?;
                self.state = State::Version;
            }
            b'\n' | b'\r' => return Err(Refusal::bad("the request line has no version")),
            b'!'..=b'~' if byte != b'#' => {
                self.count_line_octet()?;
                self.in_query |= byte == b'?';
                if !self.in_query {
                    self.target_cut |= !self.target.push(byte);
                }
            }
            _ => return Err(Refusal::bad("the target has a character that a target cannot have")),
        }
        Ok(())
    }

    fn in_version(&mut self, byte: u8) -> Result<(), Refusal> {
        match byte {
            b'\r' => self.state = State::LineLf,
            b'\n' => {
                self.state = State::Field;
                self.end_of_line()?;
            }
            _ => {
                self.count_line_octet()?;
                if !self.version_text.push(byte) {
                    return Err(Refusal::bad("the request line does not end after the version"));
                }
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self) -> Result<(), Refusal> {
        self.octets = 0;
        self.version = match self.version_text.as_slice() {
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => Version::Http11,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(Refusal {
                    status: Status::VersionNotSupported,
                    why: "the version is not HTTP/1",
                });
            }
            _ => return Err(Refusal::bad("the version is not of the form HTTP/1.1")),
        };
        Ok(())
    }

    fn in_name(&mut self, byte: u8) -> Result<(), Refusal> {
        match byte {
            b':' if !self.name.is_empty() => self.state = State::Space,
            _ if is_token(byte) => self.name_cut |= !self.name.push(byte.to_ascii_lowercase()),
            b'\r' | b'\n' => return Err(Refusal::bad("a field has no colon")),
            _ => return Err(Refusal::bad("a field's name is not a token")),
        }
        Ok(())
    }

    fn in_value(&mut self, byte: u8) -> Result<(), Refusal> {
        match byte {
            b'\r' => self.state = State::ValueLf,
            b'\n' => {
                self.state = State::Field;
                self.end_of_field()?;
            }
            b' ' | b'\t' if self.state == State::Space => {}
            b'\t' | b' '..=b'~' | 0x80.. => {
                self.state = State::Value;
                self.value_cut |= !self.value.push(byte);
            }
            _ => return Err(Refusal::bad("a field's value has a control character")),
        }
        Ok(())
    }

    fn end_of_field(&mut self) -> Result<(), Refusal> {
        if self.name_cut {
            return Ok(());
        }
        let (value, cut) = (self.value.as_slice().trim_ascii_end(), self.value_cut);
        match self.name.as_slice() {
            b"host" => {
                self.hosts += 1;
                if cut || !value.iter().all(|&byte| is_authority(byte)) {
                    return Err(Refusal::bad("Host is not a host and port"));
                }
            }
            // Tokens beyond what is kept might be `close`.
            b"connection" => {
                self.close |= cut || has_token(value, b"close");
                self.keep_alive |= has_token(value, b"keep-alive");
            }
            b"content-length" => {
                let length = decimal(value).filter(|_| !cut);
                let length = length.ok_or(Refusal::bad("Content-Length is not a number"))?;
                if self.length.is_some_and(|before| before != length) {
                    return Err(Refusal::bad("two lengths that differ"));
                }
                self.length = Some(length);
            }
            b"transfer-encoding" => {
                let chunked = self.coding.is_none() && value.eq_ignore_ascii_case(b"chunked");
                self.coding = Some(if chunked { Coding::Chunked } else { Coding::Unknown });
            }
            b"expect" => {
                let known = value.eq_ignore_ascii_case(b"100-continue");
                self.expects_continue |= known;
                self.expects_other |= !known;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Request, Refusal> {
        let modern = self.version == Version::Http11;
        if self.hosts > 1 {
            return Err(Refusal::bad("more than one Host"));
        }
        if modern && self.hosts == 0 {
            return Err(Refusal::bad("no Host"));
        }
        let body = match (self.coding, self.length) {
            (Some(_), Some(_)) => {
                return Err(Refusal::bad("Transfer-Encoding and Content-Length in one request"));
            }
            (Some(_), None) if !modern => return Err(Refusal::bad("Transfer-Encoding in HTTP/1.0")),
            (Some(Coding::Unknown), None) => {
                return Err(Refusal {
                    status: Status::NotImplemented,
                    why: "a transfer coding other than chunked",
                });
            }
            (Some(Coding::Chunked), None) => Body::Chunked,
            (None, Some(0) | None) => Body::None,
            (None, Some(length)) => Body::Length(length),
        };
        if modern && self.expects_other {
            return Err(Refusal {
                status: Status::ExpectationFailed,
                why: "an expectation other than 100-continue",
            });
        }
        let method =
            if self.method_cut { Method::Unknown } else { Method::from_token(self.method.as_slice()) };
        Ok(Request {
            method,
            page: self.page()?,
            version: self.version,
            keep_alive: !self.close && (modern || self.keep_alive),
            body,
            expects_continue: modern && self.expects_continue && body != Body::None,
        })
    }

    /// The page that the target names (RFC 9112 section 3.2: origin, absolute, authority or asterisk form).
    fn page(&self) -> Result<Option<Page>, Refusal> {
        let target = self.target.as_slice();
        let path = match target {
            [b'/', ..] => target,
            b"*" if self.method.as_slice() == b"OPTIONS" => b"/",
            _ if self.method.as_slice() == b"CONNECT" => b"/",
            _ => {
                let scheme = target.iter().position(|&byte| byte == b':').unwrap_or(0);
                let (scheme, rest) = target.split_at(scheme);
                let known = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
                let rest = rest.strip_prefix(b"://").filter(|_| known);
                let rest = rest.ok_or(Refusal::bad("the target is not a path or an http:// URI"))?;
                let authority = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
                let (authority, path) = rest.split_at(authority);
                if authority.is_empty() || !authority.iter().all(|&byte| is_authority(byte)) {
                    return Err(Refusal::bad("the target's authority is not a host and port"));
                }
                if path.is_empty() { b"/" } else { path }
            }
        };
        // No page has so long a path.
        Ok(if self.target_cut { None } else { Page::from_path(path) })
    }
}

impl Default for HeadParser {
    fn default() -> Self {
        Self::NEW
    }
}

const fn too_large(why: &'static str) -> Refusal {
    Refusal { status: Status::FieldsTooLarge, why }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of `host[:port]` (RFC 3986 section 3.2), user information not among them (RFC 9110 section 4.2.4).
fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// A number of digits alone; the largest where it is larger.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// Entry for fuzzers: reads `bytes` as requests that follow each other, whole and byte by byte.
///
/// # Panics
/// Where the two disagree, or a parser claims bytes that it did not get.
pub fn fuzz_request_heads(bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (used, whole) = HeadParser::default().feed(rest);
        assert!(used <= rest.len() && used > 0);
        let mut parser = HeadParser::default();
        for (at, byte) in rest[..used].iter().enumerate() {
            let (_, piece) = parser.feed(core::slice::from_ref(byte));
            let expected = if at + 1 == used { whole } else { Progress::More };
            assert_eq!(piece, expected);
        }
        match whole {
            Progress::Done(_) => rest = &rest[used..],
            Progress::More | Progress::Refused(_) => return,
        }
    }
}
