//! Host: exactly one, and one that everybody reads alike.

use crate::cases::{Request, passed, refused, same};

const HOST: &str = "RFC 9112 3.2";
const AUTHORITY: &str = "RFC 3986 3.2";

/// A GET with that Host.
macro_rules! host {
    ($value:literal) => {
        concat!("GET / HTTP/1.1\r\nHost: ", $value, "\r\n\r\n").as_bytes()
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Request] = &[
    refused("missing", HOST, &[400], b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    refused("missing-beside-an-absolute-target", HOST, &[400], b"GET http://a/ HTTP/1.1\r\nX: a\r\n\r\n"),
    passed("missing-in-http-1-0", HOST, b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nhost: {task}\r\n\r\n").closes(),
    refused("twice-the-same", HOST, &[400], b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    refused("twice-different", HOST, &[400], b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nhOST: b\r\n\r\n"),
    refused("twice-in-http-1-0", HOST, &[400], b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    refused("twice-beside-an-absolute-target", HOST, &[400], b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    refused("bad-beside-an-absolute-target", HOST, &[400], b"GET http://a/ HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    same("empty", "RFC 9110 7.2", host!("")),
    same("with-port", AUTHORITY, host!("orders:8080")),
    same("with-port-65535", AUTHORITY, host!("orders:65535")),
    same("with-port-0", AUTHORITY, host!("orders:0")),
    same("with-an-empty-port", AUTHORITY, host!("orders:")),
    same("in-capitals-with-dots-and-dashes", AUTHORITY, host!("My-Orders.Example.COM.")),
    same("with-an-underscore", AUTHORITY, host!("my_orders")),
    same("an-address", AUTHORITY, host!("127.0.0.1:80")),
    same("an-ipv6-address", AUTHORITY, host!("[::1]")),
    same("an-ipv6-address-with-port", AUTHORITY, host!("[2001:db8::127.0.0.1]:443")),
    same("percent-encoded", AUTHORITY, host!("a%C3%A9")),
    refused("user-information", "RFC 9110 4.2.4", &[400], host!("user@orders")),
    refused("user-information-with-password", "RFC 9110 4.2.4", &[400], host!("user:pass@orders:80")),
    refused("only-a-port", AUTHORITY, &[400], host!(":80")),
    refused("port-65536", AUTHORITY, &[400], host!("orders:65536")),
    refused("port-that-wraps-to-80", AUTHORITY, &[400], host!("orders:65616")),
    refused("port-of-many-digits", AUTHORITY, &[400], host!("orders:18446744073709551696")),
    refused("port-that-is-no-number", AUTHORITY, &[400], host!("orders:http")),
    refused("port-with-a-sign", AUTHORITY, &[400], host!("orders:+80")),
    refused("two-ports", AUTHORITY, &[400], host!("orders:80:81")),
    refused("space-inside", AUTHORITY, &[400], host!("or ders")),
    refused("tab-inside", AUTHORITY, &[400], host!("or\tders")),
    refused("two-names", AUTHORITY, &[400], host!("a, b")),
    refused("comma", AUTHORITY, &[400], host!("a,b")),
    refused("slash", AUTHORITY, &[400], host!("a/b")),
    refused("backslash", AUTHORITY, &[400], host!("a\\b")),
    refused("question-mark", AUTHORITY, &[400], host!("a?b")),
    refused("number-sign", AUTHORITY, &[400], host!("a#b")),
    refused("a-uri", AUTHORITY, &[400], host!("http://a")),
    refused("quoted", AUTHORITY, &[400], host!("\"a\"")),
    refused("angle-brackets", AUTHORITY, &[400], host!("<a>")),
    refused("percent-alone", AUTHORITY, &[400], host!("a%")),
    refused("percent-and-no-digits", AUTHORITY, &[400], host!("a%zz")),
    refused("high-byte", AUTHORITY, &[400], host!("é")),
    refused("control-character", AUTHORITY, &[400], host!("a\x01")),
    refused("ipv6-without-brackets", AUTHORITY, &[400], host!("::1")),
    refused("ipv6-not-closed", AUTHORITY, &[400], host!("[::1")),
    refused("ipv6-that-is-none", AUTHORITY, &[400], host!("[::g]")),
    refused("ipv6-followed-by-a-name", AUTHORITY, &[400], host!("[::1]a")),
    refused("brackets-around-a-name", AUTHORITY, &[400], host!("[orders]")),
    refused("brackets-inside", AUTHORITY, &[400], host!("a[b]")),
];
