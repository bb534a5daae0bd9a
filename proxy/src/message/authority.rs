//! Whether a Host field or a target's authority names a host in just one way (RFC 3986 section 3.2, RFC 9110 section 4.2).

use std::net::Ipv6Addr;

const PLAIN: u8 = 1;
const PERCENT: u8 = 2;

/// What a registered name consists of (RFC 3986 section 3.2.2), without the comma: some read two hosts there.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        if byte.is_ascii_alphanumeric() {
            classes[at] = PLAIN;
        }
        at += 1;
    }
    let marks = b"-._~!$&'()*+;=";
    let mut at = 0;
    while at < marks.len() {
        classes[marks[at] as usize] = PLAIN;
        at += 1;
    }
    classes[b'%' as usize] = PERCENT;
    classes
};

/// Whether it is a host that is not empty, with or without a port, and nothing else: no user information.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    split(text).is_some()
}

/// Whether it is a host with a port (RFC 9112 section 3.2.3).
pub(crate) fn has_port(text: &[u8]) -> bool {
    split(text).is_some_and(|port| port.len() > 1)
}

/// What follows the host: nothing, or a colon and a port that may be empty. `None` for what is no authority.
fn split(text: &[u8]) -> Option<&[u8]> {
    let host = if text.first() == Some(&b'[') {
        let end = memchr::memchr(b']', text)?;
        let inside = std::str::from_utf8(&text[1..end]).ok()?;
        inside.parse::<Ipv6Addr>().ok()?;
        end + 1
    } else {
        name(text)?
    };
    let port = &text[host..];
    is_port(port).then_some(port)
}

/// How long the registered name at the start is.
fn name(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match CLASSES[*byte as usize] {
            PLAIN => at += 1,
            PERCENT => {
                let digits = text.get(at + 1..at + 3)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                at += 3;
            }
            _ => break,
        }
    }
    (at > 0).then_some(at)
}

/// Nothing, or a colon and a number that a port can be.
fn is_port(text: &[u8]) -> bool {
    let Some((first, digits)) = text.split_first() else {
        return true;
    };
    let number = digits.iter().try_fold(0u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        Some(number * 10 + digit).filter(|number| *number <= u32::from(u16::MAX))
    });
    *first == b':' && digits.len() <= 5 && number.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_taken_with_and_without_a_port() {
        for text in [
            "orders",
            "orders:80",
            "orders:",
            "My_Orders.example.com.:65535",
            "127.0.0.1:8080",
            "[::1]",
            "[2001:db8::1]:443",
            "a%C3%A9",
            "a!$&'()*+;=b~",
        ] {
            assert!(is_authority(text.as_bytes()), "{text}");
        }
        assert!(has_port(b"orders:80") && has_port(b"[::1]:80"));
        assert!(!has_port(b"orders") && !has_port(b"[::1]") && !has_port(b"orders:"));
    }

    #[test]
    fn what_may_be_read_in_two_ways_is_no_authority() {
        for text in [
            "",
            ":80",
            "u@a",
            "u:p@a:80",
            "a b",
            "a\tb",
            "a,b",
            "a/b",
            "a\\b",
            "a?b",
            "a#b",
            "\"a\"",
            "<a>",
            "a%",
            "a%2",
            "a%zz",
            "a:b",
            "a:+1",
            "a:65536",
            "a:000080",
            "a:80:81",
            "::1",
            "[::1",
            "[::1]a",
            "[a]",
            "[]",
            "[::1%25eth0]",
            "a[b]",
            "é",
            "a\0",
            "a\r\nb",
        ] {
            assert!(!is_authority(text.as_bytes()), "{text:?}");
        }
    }
}
