//! What a client asks for, once its head was read.

use crate::response::Status;

/// A request method (RFC 9110 section 9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`.
    Head,
    /// A method of RFC 9110 or RFC 5789 that no page allows.
    NotAllowed,
    /// None that this server knows.
    Unknown,
}

impl Method {
    pub(crate) fn from_token(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" | b"PUT" | b"DELETE" | b"CONNECT" | b"OPTIONS" | b"TRACE" | b"PATCH" => Self::NotAllowed,
            _ => Self::Unknown,
        }
    }
}

/// A protocol version; a higher minor version is served as 1.1 (RFC 9110 section 2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the content that follows the head is framed (RFC 9112 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// What there is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// `/`: for people.
    Index,
    /// `/metrics`: Prometheus text.
    Metrics,
    /// `/status.json`.
    Status,
    /// `/healthz`: whether the service runs at all; always `ok`.
    Health,
    /// `/ready`: whether M1 serves its volumes.
    Ready,
}

impl Page {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Index, Self::Metrics, Self::Status, Self::Health, Self::Ready];

    /// Its path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Index => "/",
            Self::Metrics => "/metrics",
            Self::Status => "/status.json",
            Self::Health => "/healthz",
            Self::Ready => "/ready",
        }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Index => "text/html; charset=utf-8",
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
            Self::Status => "application/json",
            Self::Health | Self::Ready => "text/plain; charset=utf-8",
        }
    }

    /// The page at a path, which may be percent-encoded (RFC 3986 section 2.1).
    pub fn from_path(path: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|page| decoded(path).eq(page.path().bytes().map(Some)))
    }
}

/// The bytes of a percent-encoded path; `None` in the place of an encoding that is wrong.
fn decoded(path: &[u8]) -> impl Iterator<Item = Option<u8>> + '_ {
    let mut rest = path.iter().copied();
    core::iter::from_fn(move || {
        let byte = rest.next()?;
        if byte != b'%' {
            return Some(Some(byte));
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = (digit(), digit());
        Some(high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok()))
    })
}

/// A whole request head that is correct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The page that its target names, if there is one.
    pub page: Option<Page>,
    /// The version.
    pub version: Version,
    /// The client wants to go on with this connection.
    pub keep_alive: bool,
    /// What follows.
    pub body: Body,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

impl Request {
    /// The status of its answer, its body and the server's own state aside.
    pub fn verdict(&self) -> Status {
        match (self.method, self.page) {
            (Method::Unknown, _) => Status::NotImplemented,
            (_, None) => Status::NotFound,
            (Method::NotAllowed, _) => Status::MethodNotAllowed,
            (Method::Get | Method::Head, Some(_)) => Status::Ok,
        }
    }
}

/// A head that is wrong, and after which nothing on the connection can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The status to answer with.
    pub status: Status,
    /// What is wrong, for the answer's body.
    pub why: &'static str,
}

impl Refusal {
    pub(crate) const fn bad(why: &'static str) -> Self {
        Self { status: Status::BadRequest, why }
    }
}
