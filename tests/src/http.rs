//! How the host reaches guests: forwarded ports, and an HTTP client that is only as clever as a test needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::dom0::Dom0;

/// One request may take this long.
const REQUEST: Duration = Duration::from_secs(20);

/// An answer, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// What follows the empty line, as long as the connection was open.
    pub body: String,
}

impl Response {
    /// The value of a header, whose name may be written in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends these bytes to a port of the loopback, and reads until the other side closes.
pub fn exchange(port: u16, request: &[u8]) -> Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).context("QEMU does not listen")?;
    connection.set_read_timeout(Some(REQUEST))?;
    connection.set_write_timeout(Some(REQUEST))?;
    connection.write_all(request)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).context("no answer, or no end of it")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// GET, on a connection of its own.
pub fn get(port: u16, path: &str) -> Result<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    let answer = exchange(port, request.as_bytes())?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status: {head:?}"))?;
    Ok(Response { status, head: head.to_owned(), body: body.to_owned() })
}

impl Dom0 {
    /// The host's port on 127.0.0.1 that leads to 10.0.2.50:80.
    pub fn http_port(&self) -> u16 {
        self.forwards[0].host
    }

    /// The host's port on 127.0.0.1 that leads to this address and port, if it was asked for.
    pub fn forwarded(&self, address: [u8; 4], port: u16) -> Option<u16> {
        self.forwards.iter().find(|f| f.address == address && f.port == port).map(|f| f.host)
    }

    /// GET from 10.0.2.50:80.
    pub fn http_get(&self, path: &str) -> Result<Response> {
        get(self.http_port(), path)
    }

    /// GET from 10.0.2.50:80, again and again until somebody answers there.
    pub fn wait_http(&self, path: &str, limit: Duration) -> Result<Response> {
        let deadline = Instant::now() + limit;
        loop {
            match self.http_get(path) {
                Ok(response) => return Ok(response),
                Err(error) if Instant::now() > deadline => {
                    bail!("nobody answers at 10.0.2.50:80 within {} s: {error:#}", limit.as_secs())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}
