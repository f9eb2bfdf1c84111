use proptest::prelude::*;

use crate::head::{HeadParser, Progress, fuzz_request_heads};
use crate::request::{Body, Method, Page, Request, Version};
use crate::response::Status;

fn parse(head: &[u8]) -> (usize, Progress) {
    HeadParser::default().feed(head)
}

fn request(head: &str) -> Request {
    match parse(head.as_bytes()) {
        (used, Progress::Done(request)) => {
            assert_eq!(used, head.len());
            request
        }
        other => panic!("{head:?}: {other:?}"),
    }
}

fn refused(head: &[u8]) -> Status {
    match parse(head) {
        (_, Progress::Refused(refusal)) => refusal.status,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(head)),
    }
}

#[test]
fn an_ordinary_request_is_read() {
    let expected = Request {
        method: Method::Get,
        page: Some(Page::Metrics),
        version: Version::Http11,
        keep_alive: true,
        body: Body::None,
        expects_continue: false,
    };
    assert_eq!(request("GET /metrics HTTP/1.1\r\nHost: m1\r\nAccept: */*\r\n\r\n"), expected);
    // Empty lines before it, LF alone, white space around values, any case of names.
    assert_eq!(request("\r\n\n\r\nGET /metrics HTTP/1.1\nHOST:\t m1 \t\n\n"), expected);
}

#[test]
fn targets_of_all_forms_find_their_page() {
    let page = |target: &str| request(&format!("GET {target} HTTP/1.1\r\nHost: m1\r\n\r\n")).page;
    assert_eq!(page("/"), Some(Page::Index));
    assert_eq!(page("/?a=/metrics"), Some(Page::Index));
    assert_eq!(page("/metrics?name[]=up"), Some(Page::Metrics));
    assert_eq!(page("/status.json"), Some(Page::Status));
    assert_eq!(page("/%6detrics"), Some(Page::Metrics));
    assert_eq!(page("http://10.0.0.2:80/healthz"), Some(Page::Health));
    assert_eq!(page("HTTP://[fd00::1]/ready?x"), Some(Page::Ready));
    assert_eq!(page("http://m1"), Some(Page::Index));
    assert_eq!(page("http://m1?x"), Some(Page::Index));
    for target in ["/metrics/", "//metrics", "/Metrics", "/%6", "/%zz", "/%6dmetrics", "/..", "/%2e"] {
        assert_eq!(page(target), None, "{target}");
    }
    assert_eq!(page(&format!("/{}", "a".repeat(7000))), None);
    for target in
        ["metrics", "*", "ftp://m1/", "http:///metrics", "http://u@m1/", "http:/m1", "/a#b", "?x", "://m1/"]
    {
        assert_eq!(
            refused(format!("GET {target} HTTP/1.1\r\nHost: m1\r\n\r\n").as_bytes()),
            Status::BadRequest,
            "{target}"
        );
    }
}

#[test]
fn methods_versions_and_pages_decide_the_status() {
    let verdict = |line: &str| request(&format!("{line}\r\nHost: m1\r\n\r\n")).verdict();
    assert_eq!(verdict("HEAD /ready HTTP/1.0"), Status::Ok);
    assert_eq!(verdict("GET /ready HTTP/1.7"), Status::Ok);
    assert_eq!(verdict("GET /nothing HTTP/1.1"), Status::NotFound);
    assert_eq!(verdict("POST /nothing HTTP/1.1"), Status::NotFound);
    assert_eq!(verdict("OPTIONS * HTTP/1.1"), Status::MethodNotAllowed);
    assert_eq!(verdict("CONNECT m1:80 HTTP/1.1"), Status::MethodNotAllowed);
    for method in ["POST", "PUT", "DELETE", "TRACE", "PATCH"] {
        assert_eq!(verdict(&format!("{method} / HTTP/1.1")), Status::MethodNotAllowed);
    }
    for method in ["get", "BREW", "GETGETGET", "GETTTTTTTTTTTTTTTTTTTTT"] {
        assert_eq!(verdict(&format!("{method} / HTTP/1.1")), Status::NotImplemented);
    }
    assert_eq!(refused(b"PRI * HTTP/2.0\r\n\r\n"), Status::VersionNotSupported);
    assert_eq!(refused(b"GET / HTTP/0.9\r\n"), Status::VersionNotSupported);
}

#[test]
fn what_is_not_http_is_refused() {
    let heads: [&[u8]; 22] = [
        b"GET /\r\n",
        b"GET / \r\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b"GET / http/1.1\r\n",
        b"GET / HTTP/11\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"G@T / HTTP/1.1\r\n",
        b"GET /\x00 HTTP/1.1\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\n",
        b"GET / HTTP/1.1\rHost: m1\r\n",
        b"GET / HTTP/1.1\r\n Host: m1\r\n",
        b"GET / HTTP/1.1\r\nHost : m1\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n",
        b"GET / HTTP/1.1\r\n: m1\r\n",
        b"GET / HTTP/1.1\r\nHost: m1\r\nA: b\r\n c\r\n",
        b"GET / HTTP/1.1\r\nHost: m1\r\nA: b\rc\r\n",
        b"GET / HTTP/1.1\r\nHost: m1\r\nA: \x01\r\n",
        b"GET / HTTP/1.1\r\nHost: m1\r\nA: \x7f\r\n",
        b"GET / HTTP/1.1\r\nHost: m1\r\n\rX",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for head in heads {
        assert_eq!(refused(head), Status::BadRequest, "{:?}", String::from_utf8_lossy(head));
    }
    assert_eq!(refused(&b"\r\n".repeat(100)), Status::BadRequest);
}

#[test]
fn one_host_it_must_be() {
    let status =
        |fields: &str, version: &str| match parse(format!("GET / {version}\r\n{fields}\r\n").as_bytes()).1 {
            Progress::Done(_) => Status::Ok,
            Progress::Refused(refusal) => refusal.status,
            Progress::More => panic!(),
        };
    assert_eq!(status("", "HTTP/1.1"), Status::BadRequest);
    assert_eq!(status("", "HTTP/1.0"), Status::Ok);
    assert_eq!(status("Host:\r\n", "HTTP/1.1"), Status::Ok);
    assert_eq!(status("Host: m1\r\nhost: m1\r\n", "HTTP/1.1"), Status::BadRequest);
    assert_eq!(status("Host: m1\r\nhost: m1\r\n", "HTTP/1.0"), Status::BadRequest);
    assert_eq!(status("Host: m1, m2 \r\n", "HTTP/1.1"), Status::BadRequest);
    assert_eq!(status("Host: a/b\r\n", "HTTP/1.1"), Status::BadRequest);
    assert_eq!(status(&format!("Host: {}\r\n", "a".repeat(300)), "HTTP/1.1"), Status::BadRequest);
    assert_eq!(status("Hosts: a/b\r\nHost: m1\r\n", "HTTP/1.1"), Status::Ok);
}

#[test]
fn framing_that_means_two_things_is_refused() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: m1\r\n{fields}\r\n\r\n");
    let status = |fields: &str| refused(get(fields).as_bytes());
    assert_eq!(request(&get("Content-Length: 0")).body, Body::None);
    assert_eq!(request(&get("Content-Length: 5")).body, Body::Length(5));
    assert_eq!(request(&get("Content-Length: 5\r\nContent-Length: 5")).body, Body::Length(5));
    assert_eq!(request(&get("Content-Length: 99999999999999999999999")).body, Body::Length(u64::MAX));
    assert_eq!(request(&get("Transfer-Encoding: Chunked")).body, Body::Chunked);
    for length in ["", "-1", "+1", "5, 5", "5 5", "0x5", "1e3", &"9".repeat(300)] {
        assert_eq!(status(&format!("Content-Length: {length}")), Status::BadRequest, "{length}");
    }
    assert_eq!(status("Content-Length: 5\r\nContent-Length: 6"), Status::BadRequest);
    assert_eq!(status("Content-Length: 5\r\nTransfer-Encoding: chunked"), Status::BadRequest);
    assert_eq!(status("Transfer-Encoding: chunked\r\nContent-Length: 0"), Status::BadRequest);
    for coding in ["gzip", "gzip, chunked", "chunked\r\nTransfer-Encoding: chunked", "", "chunked, identity"]
    {
        assert_eq!(status(&format!("Transfer-Encoding: {coding}")), Status::NotImplemented, "{coding}");
    }
    assert_eq!(refused(b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Status::BadRequest);
}

#[test]
fn expectations_are_met_or_refused() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: m1\r\n{fields}\r\n\r\n");
    assert!(request(&get("Expect: 100-Continue\r\nContent-Length: 5")).expects_continue);
    assert!(!request(&get("Expect: 100-continue")).expects_continue, "nothing to go on with");
    assert_eq!(refused(get("Expect: tea").as_bytes()), Status::ExpectationFailed);
    assert!(!request("GET / HTTP/1.0\r\nExpect: tea\r\n\r\n").expects_continue);
}

#[test]
fn a_connection_is_kept_when_both_versions_say_so() {
    let kept = |version: &str, fields: &str| {
        request(&format!("GET / {version}\r\nHost: m1\r\n{fields}\r\n")).keep_alive
    };
    assert!(kept("HTTP/1.1", ""));
    assert!(!kept("HTTP/1.1", "Connection: close\r\n"));
    assert!(!kept("HTTP/1.1", "Connection: foo , CLOSE\r\n"));
    assert!(!kept("HTTP/1.1", "Connection: close\r\nConnection: keep-alive\r\n"));
    assert!(kept("HTTP/1.1", "Connection: closed\r\n"));
    assert!(!kept("HTTP/1.0", ""));
    assert!(kept("HTTP/1.0", "Connection: Keep-Alive\r\n"));
    // A list too long to keep may end in `close`.
    assert!(!kept("HTTP/1.1", &format!("Connection: {}\r\n", "a,".repeat(200))));
}

#[test]
fn limits_hold_to_the_octet() {
    let line = |octets: usize| format!("GET /{} HTTP/1.1", "a".repeat(octets - "GET / HTTP/1.1".len()));
    assert_eq!(request(&format!("{}\r\nHost: m1\r\n\r\n", line(8000))).page, None);
    assert_eq!(refused(format!("{}\r\n", line(8001)).as_bytes()), Status::UriTooLong);
    let query = format!("GET /metrics?{} HTTP/1.1\r\n", "a".repeat(8000));
    assert_eq!(refused(query.as_bytes()), Status::UriTooLong);
    assert_eq!(refused("A".repeat(9000).as_bytes()), Status::NotImplemented);

    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: m1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(request(&fields(99)).page, Some(Page::Index));
    assert_eq!(refused(fields(100).as_bytes()), Status::FieldsTooLarge);
    let long =
        |octets: usize| format!("GET / HTTP/1.1\r\nHost: m1\r\nCookie: {}\r\n\r\n", "a".repeat(octets));
    assert_eq!(request(&long(16_000)).page, Some(Page::Index));
    assert_eq!(refused(long(17_000).as_bytes()), Status::FieldsTooLarge);
}

#[test]
fn what_follows_a_head_is_left() {
    let (used, progress) = parse(b"GET / HTTP/1.1\r\nHost: m1\r\n\r\nGET /m");
    assert!(matches!(progress, Progress::Done(_)));
    assert_eq!(used, 28);
}

/// Pieces that heads are made of, some of them wrong.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"GET ",
        b"HEAD",
        b" ",
        b"/",
        b"/metrics",
        b"http://m1/",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/2.0",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Host: m1\r\n",
        b"Host:",
        b": ",
        b":",
        b"\t",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"x",
        b"\r\n\r\n",
        b"\0",
        b"\xff",
        b"?q",
        b"Expect: 100-continue\r\n",
        b"GET / HTTP/1.1\r\nHost: m1\r\n\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![Just(b"GET / HTTP/1.1\r\n".to_vec()), Just(Vec::new())];
    (start, proptest::collection::vec(piece(), 0..24))
        .prop_map(|(start, rest)| [start, rest.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_head_is_read_the_same_in_any_pieces(bytes in bytes()) {
        fuzz_request_heads(&bytes);
    }

    /// Where this parser accepts, a parser that others wrote accepts the same bytes as the same request.
    #[test]
    fn nothing_is_accepted_that_httparse_refuses(bytes in bytes()) {
        let (used, progress) = parse(&bytes);
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut other = httparse::Request::new(&mut fields);
        match (progress, other.parse(&bytes)) {
            (Progress::Done(request), result) => {
                prop_assert_eq!(result, Ok(httparse::Status::Complete(used)));
                prop_assert_eq!(request.version == Version::Http11, other.version == Some(1));
                prop_assert_eq!(request.method == Method::Get, other.method == Some("GET"));
                let hosts = other.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host")).count();
                prop_assert!(hosts == 1 || (hosts == 0 && request.version == Version::Http10));
            }
            (Progress::More, result) => prop_assert!(!matches!(result, Ok(httparse::Status::Complete(_)))),
            (Progress::Refused(_), _) => {}
        }
    }
}
