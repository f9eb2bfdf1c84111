//! Response heads (RFC 9112 section 4, RFC 9110 section 15).

use core::fmt::{self, Write};

use crate::date::HttpDate;

/// Every status that this server answers with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// 200
    Ok,
    /// 400: not HTTP, or HTTP that means two things.
    BadRequest,
    /// 404
    NotFound,
    /// 405, always with `Allow`.
    MethodNotAllowed,
    /// 408: the request did not come to its end in time.
    RequestTimeout,
    /// 413: more content than is read for a page that takes none.
    ContentTooLarge,
    /// 414: the request line is longer than 8000 octets.
    UriTooLong,
    /// 417: an expectation other than `100-continue`.
    ExpectationFailed,
    /// 431: the fields are too many or too long.
    FieldsTooLarge,
    /// 500: a page is larger than the buffer for it.
    InternalError,
    /// 501: no such method or transfer coding.
    NotImplemented,
    /// 503: not ready, or too busy with slow readers.
    Unavailable,
    /// 505: not HTTP/1.
    VersionNotSupported,
}

impl Status {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::ContentTooLarge,
        Self::UriTooLong,
        Self::ExpectationFailed,
        Self::FieldsTooLarge,
        Self::InternalError,
        Self::NotImplemented,
        Self::Unavailable,
        Self::VersionNotSupported,
    ];

    /// The code and the reason phrase.
    pub const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::ContentTooLarge => "413 Content Too Large",
            Self::UriTooLong => "414 URI Too Long",
            Self::ExpectationFailed => "417 Expectation Failed",
            Self::FieldsTooLarge => "431 Request Header Fields Too Large",
            Self::InternalError => "500 Internal Server Error",
            Self::NotImplemented => "501 Not Implemented",
            Self::Unavailable => "503 Service Unavailable",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }

    /// The code alone, as text.
    pub fn code(self) -> &'static str {
        &self.line()[..3]
    }

    pub(crate) fn index(self) -> usize {
        Self::ALL.iter().position(|&status| status == self).unwrap_or(0)
    }
}

/// What a response head says.
pub(crate) struct ResponseHead {
    pub(crate) status: Status,
    /// Seconds since 1970; `None` while M1 has no clock, and then there is no `Date` (RFC 9110 section 6.6.1).
    pub(crate) date: Option<u64>,
    pub(crate) content_type: &'static str,
    /// Bytes of the body that GET has.
    pub(crate) length: usize,
    pub(crate) close: bool,
}

impl ResponseHead {
    pub(crate) fn write(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "HTTP/1.1 {}\r\n", self.status.line())?;
        if let Some(seconds) = self.date {
            write!(out, "Date: {}\r\n", HttpDate(seconds))?;
        }
        write!(out, "Content-Type: {}\r\nContent-Length: {}\r\n", self.content_type, self.length)?;
        out.write_str("Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n")?;
        if self.content_type.starts_with("text/html") {
            out.write_str("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n")?;
        }
        match self.status {
            Status::MethodNotAllowed => out.write_str("Allow: GET, HEAD\r\n")?,
            Status::Unavailable => out.write_str("Retry-After: 1\r\n")?,
            _ => {}
        }
        write!(out, "Connection: {}\r\n\r\n", if self.close { "close" } else { "keep-alive" })
    }
}

/// The interim answer to `Expect: 100-continue`.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
