//! Request heads as a client of the endpoint sends them.

/// In one piece and byte by byte they mean the same.
pub fn run(data: &[u8]) {
    mm_http::fuzz_request_heads(data);
}
