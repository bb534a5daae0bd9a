//! The hop between two sidecars as `proxy/HOP.md` has it: the hello of a connection, and the fields beside its messages.

pub(crate) mod hello;
pub(crate) mod spelling;

use std::fmt;
use std::io::Write;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use crate::error::Kind;
use crate::message::fields::{Fields, Known};
use crate::mutants::{self, Mutant};
use crate::policy::retry::Retriable;

/// The fields, all of the prefix that [`Known::Hop`] stands for.
const TRY: &str = "outrigger-try";
/// In a response that the far sidecar made.
pub(crate) const VERDICT: &str = "outrigger-verdict";
const CASE: HeaderName = HeaderName::from_static("outrigger-case");
const REASON: HeaderName = HeaderName::from_static("outrigger-reason");
const UPGRADE: HeaderName = HeaderName::from_static("outrigger-upgrade");

/// Takes out what only the two ends of a hop may say. What came by one has been read before.
pub(crate) fn strip(fields: &mut Fields) {
    if !mutants::is(Mutant::HopUnstripped) {
        fields.remove_known(Known::Hop);
    }
}

/// What an egress says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Try {
    /// From 1.
    pub(crate) attempt: u32,
    /// Of its per-request timeout.
    pub(crate) left: Option<Left>,
}

/// How long an egress will wait, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Head(Duration),
    Whole(Duration),
}

impl Try {
    const FIRST: Self = Self {
        attempt: 1,
        left: None,
    };

    /// Takes it out of a request that came by a hop of HTTP/1.1.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        let told = fields.named(TRY.as_bytes()).next().and_then(Self::read);
        strip(fields);
        told.unwrap_or(Self::FIRST)
    }

    /// What is not said, or not as it should be, is the first attempt.
    pub(crate) fn of(value: Option<&HeaderValue>) -> Self {
        let told = value.and_then(|value| Self::read(value.as_bytes()));
        told.unwrap_or(Self::FIRST)
    }

    fn read(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let attempt = words.next()?.parse().ok()?;
        let millis = words.next().map(str::parse).transpose().ok()?;
        // Zero would be "off" where it is used.
        let left = millis.map(|millis: u32| Duration::from_millis(millis.max(1).into()));
        let left = match (left, words.next(), words.next()) {
            (None, None, None) => None,
            (Some(left), None, None) => Some(Left::Whole(left)),
            (Some(left), Some("head"), None) => Some(Left::Head(left)),
            _ => return None,
        };
        Some(Self { attempt, left })
    }

    /// As a field's value, if there is something to say.
    pub(crate) fn value(self) -> Option<HeaderValue> {
        let says_nothing = self.attempt == 1 && !matches!(self.left, Some(Left::Whole(_)));
        if says_nothing {
            return None;
        }
        // The longest is two numbers of 32 and 64 bits with a word.
        let mut text = [0; 48];
        let mut rest = &mut text[..];
        write!(rest, "{self}").ok()?;
        let left = rest.len();
        HeaderValue::from_bytes(&text[..text.len() - left]).ok()
    }

    /// Says it in a request of HTTP/1.1, in place of what another attempt said.
    pub(crate) fn write(value: Option<&HeaderValue>, fields: &mut Fields) {
        strip(fields);
        if let Some(value) = value {
            fields.push(TRY, value.as_bytes());
        }
    }

    pub(crate) const FIELD: HeaderName = HeaderName::from_static(TRY);
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempt.fmt(f)?;
        match self.left {
            None => Ok(()),
            Some(Left::Whole(left)) => write!(f, " {}", left.as_millis()),
            Some(Left::Head(left)) => write!(f, " {} head", left.as_millis()),
        }
    }
}

/// What an ingress says of a response that it made itself.
pub(crate) fn verdict(kind: Kind) -> String {
    let class = match kind {
        _ if mutants::is(Mutant::HopBlindVerdict) => "undelivered",
        // Refused before anything was tried.
        Kind::NoRoute | Kind::NoCluster | Kind::NoHealthyEndpoint | Kind::Overflow => "undelivered",
        kind => match kind.retriable() {
            Retriable::Undelivered => "undelivered",
            Retriable::Unknown => "unknown",
            Retriable::No => "final",
        },
    };
    format!("{class} {}", kind.flag())
}

/// The class of such a response; `None` of an application's. One that is not understood is never repeated.
pub(crate) fn verdict_of(fields: &Fields) -> Option<Retriable> {
    if !fields.has(Known::Hop) {
        return None;
    }
    let said = fields.named(VERDICT.as_bytes()).next()?;
    Some(match said.split(|byte| *byte == b' ').next() {
        Some(b"undelivered") => Retriable::Undelivered,
        Some(b"unknown") => Retriable::Unknown,
        _ => Retriable::No,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::fields::tests::fields;

    #[test]
    fn a_try_is_read_as_it_is_written() {
        let s = Duration::from_secs;
        for (attempt, left, text) in [
            (1, None, None),
            (1, Some(Left::Head(s(9))), None),
            (1, Some(Left::Whole(s(5))), Some("1 5000")),
            (2, None, Some("2")),
            (3, Some(Left::Head(s(9))), Some("3 9000 head")),
        ] {
            let told = Try { attempt, left };
            let value = told.value();
            let written = value.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(written, text);
            if let Some(text) = text {
                let mut fields = fields(&[("a", "1"), ("outrigger-try", text)]);
                assert_eq!(Try::take(&mut fields), told);
                assert_eq!(fields.iter().count(), 1);
            }
        }
    }

    #[test]
    fn a_try_that_is_none_is_the_first() {
        for wrong in [
            "",
            "x",
            "1 x",
            "1 2 whole",
            "1 2 head 3",
            "-1",
            "1  2",
            "99999999999",
        ] {
            let mut fields = fields(&[("outrigger-try", wrong)]);
            assert_eq!(Try::take(&mut fields), Try::FIRST, "{wrong:?}");
        }
    }

    #[test]
    fn a_verdict_says_whether_the_application_saw_a_byte() {
        let read = |text: &str| verdict_of(&fields(&[("outrigger-verdict", text)]));
        assert_eq!(verdict(Kind::ConnectFailed), "undelivered UF");
        for kind in Kind::ALL {
            let class = read(&verdict(kind)).expect("it is one");
            if class == Retriable::Undelivered {
                let before = kind.retriable() == Retriable::Undelivered;
                let refused = matches!(
                    kind,
                    Kind::NoRoute | Kind::NoCluster | Kind::NoHealthyEndpoint | Kind::Overflow
                );
                assert!(before || refused, "{kind:?}");
            }
        }
        assert_eq!(read("unknown UC"), Some(Retriable::Unknown));
        assert_eq!(read("final UT"), Some(Retriable::No));
        assert_eq!(read("certain"), Some(Retriable::No));
        assert_eq!(verdict_of(&fields(&[("x", "1")])), None);
    }
}
