//! Request targets: the four forms, and what may stand in them.

use crate::cases::{Request, passed, refused, same};

const ORIGIN: &str = "RFC 9112 3.2.1";
const ABSOLUTE: &str = "RFC 9112 3.2.2";
const AUTHORITY: &str = "RFC 9112 3.2.3";
const ASTERISK: &str = "RFC 9112 3.2.4";
const SYNTAX: &str = "RFC 9112 3.2";

/// A GET of that target; its Host is `a` unless said.
macro_rules! get {
    ($target:literal) => {
        get!($target, "a")
    };
    ($target:literal, $host:literal) => {
        concat!("GET ", $target, " HTTP/1.1\r\nHost: ", $host, "\r\n\r\n").as_bytes()
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Request] = &[
    same("path-and-query", ORIGIN, get!("/a/b;c=d,e/f?g=h&i=%20?j")),
    same("dots-and-double-slashes", ORIGIN, get!("//a/../b//./c/")),
    same("looks-like-an-authority", ORIGIN, get!("//other/a")),
    same("percent-encoded", ORIGIN, get!("/%00%0d%0A%2f%zz%")),
    same("characters-that-should-be-encoded", ORIGIN, get!("/\"<>\\^`{|}?\"<>\\^`{|}")),
    same("high-bytes", ORIGIN, get!("/é?ü")),
    same("high-bytes-that-are-no-utf-8", ORIGIN, b"GET /caf\xe9?\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
    same("a-query-that-looks-like-a-request", ORIGIN, get!("/?http://b/HTTP/1.1")),
    same("as-long-as-the-limit", ORIGIN, b"").made_same(longest),
    refused("one-byte-over-the-limit", "RFC 9110 15.5.15", &[414], b"").made(too_long),
    refused("far-over-the-limit", "RFC 9110 15.5.15", &[414], b"").made(far_too_long),
    refused("a-line-without-end", "RFC 9110 15.5.15", &[414], b"").made(endless),
    refused("fragment", SYNTAX, &[400], get!("/a#b")),
    refused("fragment-in-the-query", SYNTAX, &[400], get!("/a?b#c")),
    refused("fragment-at-the-end-of-a-long-target", SYNTAX, &[400], get!("/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#")),
    refused("space", SYNTAX, &[400], get!("/a b")),
    refused("tab", SYNTAX, &[400], get!("/a\tb")),
    refused("nul", SYNTAX, &[400], get!("/a\0b")),
    refused("control-character", SYNTAX, &[400], get!("/a\x01b")),
    refused("del", SYNTAX, &[400], get!("/a\x7fb")),
    refused("bare-cr", SYNTAX, &[400], get!("/a\rb")),
    refused("a-second-request-line", SYNTAX, &[400], get!("/a\nGET /b")),
    refused("empty", SYNTAX, &[400], b"GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("without-slash", ORIGIN, &[400], get!("a")),
    refused("only-a-query", ORIGIN, &[400], get!("?a")),
    refused("backslash-first", ORIGIN, &[400], get!("\\a")),
    refused("percent-encoded-slash-first", ORIGIN, &[400], get!("%2fa")),
    refused("asterisk-of-a-get", ASTERISK, &[400], get!("*")),
    refused("asterisk-and-more", ASTERISK, &[400], b"OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n"),
    same("asterisk-of-options", ASTERISK, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    passed("absolute", ABSOLUTE, get!("http://a/b?c"), get!("/b?c")),
    passed("absolute-replaces-host", ABSOLUTE, get!("http://orders:80/b", "other"), get!("/b", "orders:80")),
    passed("absolute-replaces-an-empty-host", ABSOLUTE, get!("http://orders/b", ""), get!("/b", "orders")),
    passed("absolute-in-its-place", ABSOLUTE,
        b"GET http://orders/ HTTP/1.1\r\nX: 1\r\nHOST: other\r\nY: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: 1\r\nHOST: orders\r\nY: 2\r\n\r\n"),
    passed("absolute-https", ABSOLUTE, get!("https://a/b"), get!("/b")),
    passed("absolute-in-capitals", ABSOLUTE, get!("HTTP://A/B"), get!("/B", "A")),
    passed("absolute-without-path", ABSOLUTE, get!("http://a"), get!("/")),
    passed("absolute-with-a-query-alone", ORIGIN, get!("http://a?b=c"), get!("/?b=c")),
    passed("absolute-ipv6", ABSOLUTE, get!("http://[::1]:80/b"), get!("/b", "[::1]:80")),
    passed("absolute-in-http-1-0", ABSOLUTE, b"GET http://a/b HTTP/1.0\r\n\r\n", b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n").closes(),
    passed("absolute-options-without-path", ASTERISK, b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    passed("absolute-options-with-path", ASTERISK, b"OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", b"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("absolute-with-user-information", "RFC 9110 4.2.4", &[400], get!("http://user@a/b")),
    refused("absolute-with-user-and-password", "RFC 9110 4.2.4", &[400], get!("http://user:pass@a/b")),
    refused("absolute-with-empty-user", "RFC 9110 4.2.4", &[400], get!("http://@a/b")),
    refused("absolute-of-another-scheme", ABSOLUTE, &[400], get!("ftp://a/b")),
    refused("absolute-of-a-longer-scheme", ABSOLUTE, &[400], get!("httpx://a/b")),
    refused("absolute-without-scheme", ABSOLUTE, &[400], get!("://a/b")),
    refused("absolute-without-host", "RFC 9110 4.2.1", &[400], get!("http:///b")),
    refused("absolute-with-only-a-port", "RFC 9110 4.2.1", &[400], get!("http://:80/b")),
    refused("absolute-with-one-slash", ABSOLUTE, &[400], get!("http:/a/b")),
    refused("absolute-without-slashes", ABSOLUTE, &[400], get!("http:a")),
    refused("absolute-with-backslashes", ABSOLUTE, &[400], get!("http:\\\\a\\b")),
    refused("absolute-with-a-backslash-in-its-host", ABSOLUTE, &[400], get!("http://a\\b/")),
    refused("absolute-with-a-bad-port", ABSOLUTE, &[400], get!("http://a:b/")),
    refused("absolute-with-port-65536", ABSOLUTE, &[400], get!("http://a:65536/")),
    refused("absolute-with-a-fragment", ABSOLUTE, &[400], get!("http://a/#b")),
    refused("absolute-with-a-comma-in-its-host", ABSOLUTE, &[400], get!("http://a,b/")),
    refused("authority-of-a-get", AUTHORITY, &[400], get!("a:80")),
    refused("connect", AUTHORITY, &[405], b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    refused("connect-and-what-would-be-tunnelled", AUTHORITY, &[405], b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("connect-with-body", AUTHORITY, &[405], b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nabc"),
    refused("connect-of-a-path", AUTHORITY, &[400], b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("connect-of-a-uri", AUTHORITY, &[400], b"CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("connect-without-port", AUTHORITY, &[400], b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
];

fn target(length: usize, rest: &[u8]) -> Vec<u8> {
    let mut sends = b"GET /".to_vec();
    sends.resize(sends.len() + length - 1, b'x');
    sends.extend(rest);
    sends
}

const REST: &[u8] = b" HTTP/1.1\r\nHost: a\r\n\r\n";
const LIMIT: usize = 16 * 1024;

fn longest() -> Vec<u8> {
    target(LIMIT, REST)
}

fn too_long() -> Vec<u8> {
    target(LIMIT + 1, REST)
}

fn far_too_long() -> Vec<u8> {
    target(200 * 1024, REST)
}

fn endless() -> Vec<u8> {
    target(20_000, b"")
}
