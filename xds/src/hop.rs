//! Who speaks the hop protocol between sidecars (`proxy/HOP.md`), and the tokens by which its two ends know each other.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The version that is spoken.
const VERSION: &str = "1";

/// 128 random bits, written as 32 hex digits. `Debug` hides them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token([u8; 16]);

impl Token {
    /// A token of these bits.
    pub const fn new(bits: [u8; 16]) -> Self {
        Self(bits)
    }

    /// The token as it travels.
    pub fn to_hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }

    /// Whether `text` is this token, in a time that says nothing of where they differ.
    pub fn is(self, text: &[u8]) -> bool {
        let own = self.to_hex();
        let pairs = own.iter().zip(text);
        let differ = pairs.fold(0, |differ, (a, b)| black_box(differ | (a ^ b)));
        text.len() == own.len() && differ == 0
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be 32 hex digits in lower case".to_owned();
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(wrong()),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut bits = [0; 16];
        if pairs.len() != bits.len() || !rest.is_empty() {
            return Err(wrong());
        }
        for (bits, [high, low]) in bits.iter_mut().zip(pairs) {
            *bits = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bits))
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// An ingress sidecar's two tokens. As text, `1 <request> <verdict>`: the registry's attribute and EDS' metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tokens {
    /// By which the ingress knows an egress.
    pub request: Token,
    /// By which the egress knows the ingress; it never travels the other way.
    pub verdict: Token,
}

impl Tokens {
    /// What may be shown of them, `1 <8 hex digits>`: the version, and enough of a digest to tell one pair from another.
    pub fn shown(&self) -> String {
        let digest = Sha256::digest(self.to_string());
        let [a, b, c, d] = [digest[0], digest[1], digest[2], digest[3]];
        format!("{VERSION} {:08x}", u32::from_be_bytes([a, b, c, d]))
    }

    /// Whether `text` is what may be shown of tokens: a version, with or without the digest.
    pub fn is_shown(text: &str) -> bool {
        let (version, digest) = text.split_once(' ').unwrap_or((text, "00000000"));
        let number = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
        number && digest.len() == 8 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// Reads them where their version is one that is spoken; `Ok(None)` where it is a later one.
    pub fn read(text: &str) -> Result<Option<Self>, String> {
        let mut words = text.split(' ');
        let version = words.next().unwrap_or_default();
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("must begin with the number of a version".to_owned());
        }
        if version != VERSION {
            return Ok(None);
        }
        let (Some(request), Some(verdict), None) = (words.next(), words.next(), words.next())
        else {
            return Err("must be a version and two tokens, with a space between".to_owned());
        };
        Ok(Some(Self {
            request: request.parse()?,
            verdict: verdict.parse()?,
        }))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION} {} {}", self.request, self.verdict)
    }
}

/// A task as hops name it.
pub fn target(namespace: &str, service: &str, instance: &str) -> String {
    format!("{namespace}/{service}/{instance}")
}

/// Whom an ingress listener takes hops for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `namespace/service/instance`, once for each service behind the listener.
    pub targets: Vec<String>,
    /// Its tokens.
    pub tokens: Tokens,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "1 000102030405060708090a0b0c0d0e0f f0e0d0c0b0a090807060504030201000";

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let tokens = Tokens::read(TEXT).unwrap().unwrap();
        assert_eq!(tokens.to_string(), TEXT);
        assert!(tokens.request.is(b"000102030405060708090a0b0c0d0e0f"));
        for other in [
            "000102030405060708090a0b0c0d0e0e",
            "000102030405060708090a0b0c0d0e0",
            "",
        ] {
            assert!(!tokens.request.is(other.as_bytes()), "{other}");
        }
        let json = serde_json::to_string(&tokens).unwrap();
        assert_eq!(serde_json::from_str::<Tokens>(&json).unwrap(), tokens);
    }

    #[test]
    fn a_later_version_is_not_spoken_and_what_is_none_is_refused() {
        assert_eq!(Tokens::read("2 anything"), Ok(None));
        for wrong in [
            "",
            "one",
            "1",
            "1 00",
            &TEXT[..TEXT.len() - 1],
            &TEXT.to_uppercase(),
        ] {
            assert!(Tokens::read(wrong).is_err(), "{wrong}");
        }
        assert!(Tokens::read(&format!("{TEXT} ")).is_err());
    }

    #[test]
    fn what_is_shown_tells_one_pair_from_another_and_is_no_token() {
        let tokens = Tokens::read(TEXT).unwrap().unwrap();
        let swapped = Tokens {
            request: tokens.verdict,
            verdict: tokens.request,
        };
        assert_eq!(tokens.shown(), "1 c9a66b2b");
        assert_ne!(tokens.shown(), swapped.shown());
        assert!(Tokens::read(&tokens.shown()).is_err());
    }

    #[test]
    fn nobody_sees_a_token_in_a_log() {
        let shown = format!("{:?}", Tokens::read(TEXT));
        assert!(!shown.contains("0405"), "{shown}");
    }
}
