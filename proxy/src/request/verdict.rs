//! What an attempt's end says: to outlier detection of the endpoint, to the retry rules of another attempt.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use super::{Answer, headers};
use crate::error::ProxyError;
use crate::hop;
use crate::message::fields::Fields;
use crate::message::head::ResponseHead;
use crate::mutants::{self, Mutant};
use crate::policy::endpoint::Endpoint;
use crate::policy::outlier::Outcome;
use crate::policy::retry::{Ended, Pushback, Retriable};

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: &[u8] = b"14";

/// How the attempt ended, for the retry rules.
pub(super) fn ended(attempted: &Result<Answer, ProxyError>, endpoint: &Endpoint) -> Ended {
    match attempted {
        Ok((head, _)) => {
            if let Some(class) = told(endpoint, head) {
                return Ended::Failed(class);
            }
            let status = status(head);
            let pushback = match status.is_success() {
                true => Pushback::None,
                false => pushback(&head.fields, SystemTime::now),
            };
            Ended::Answered(status, pushback)
        }
        Err(error) => Ended::Failed(error.kind.retriable()),
    }
}

/// What the sidecar in front of the endpoint says of an answer that is not the application's.
fn told(endpoint: &Endpoint, head: &ResponseHead) -> Option<Retriable> {
    let trusted = endpoint.hop.is_some() && !mutants::is(Mutant::HopDeafVerdict);
    let class = trusted.then(|| hop::verdict_of(&head.fields)).flatten();
    if let Some(class) = class {
        let (endpoint, status) = (endpoint.address, head.status);
        tracing::debug!(%endpoint, ?class, %status, "answered by the far sidecar");
    }
    class
}

/// What it says of the endpoint; nothing when the endpoint is not to blame.
pub(super) fn outcome(attempted: &Result<Answer, ProxyError>) -> Option<Outcome> {
    match attempted {
        Ok((head, _)) => Some(Outcome::of(status(head))),
        Err(error) => error.kind.blames_endpoint().then_some(Outcome::LocalOrigin),
    }
}

/// The status; gRPC says UNAVAILABLE with 200 in a head that is the whole answer, and means 503 (gRPC "Trailers-Only").
fn status(head: &ResponseHead) -> StatusCode {
    let refused = head.status == StatusCode::OK
        && headers::is_grpc(&head.fields)
        && head
            .fields
            .named(b"grpc-status")
            .any(|code| code == UNAVAILABLE);
    match refused {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => head.status,
    }
}

/// When the service wants to be asked again. One that cannot be read is none for HTTP, and "not at all" for gRPC (proposal A6).
fn pushback(fields: &Fields, now: impl Fn() -> SystemTime) -> Pushback {
    if let Some(wait) = fields.named(b"grpc-retry-pushback-ms").next() {
        return number(wait).map_or(Pushback::Never, |ms| {
            Pushback::After(Duration::from_millis(ms))
        });
    }
    let Some(wait) = fields.named(b"retry-after").next() else {
        return Pushback::None;
    };
    let date = || httpdate::parse_http_date(std::str::from_utf8(wait).ok()?).ok();
    let until = || Some(date()?.duration_since(now()).unwrap_or_default());
    let wait = number(wait).map(Duration::from_secs).or_else(until);
    wait.map_or(Pushback::None, Pushback::After)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::fields::tests::fields;

    fn head(status: u16, pairs: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).expect("a status"));
        head.fields = fields(pairs);
        head
    }

    #[test]
    fn grpc_says_unavailable_in_a_status_of_its_own() {
        let grpc = ("content-type", "application/grpc");
        for (pairs, expected) in [
            (&[grpc, ("grpc-status", "14")][..], 503),
            (&[grpc, ("grpc-status", "13")], 200),
            (&[grpc], 200),
            (&[("grpc-status", "14")], 200),
        ] {
            assert_eq!(status(&head(200, pairs)).as_u16(), expected, "{pairs:?}");
        }
        assert_eq!(status(&head(503, &[])).as_u16(), 503);
    }

    #[test]
    fn what_a_service_asks_for_is_read_as_seconds_a_date_or_grpc_milliseconds() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        let seconds = |n| Pushback::After(Duration::from_secs(n));
        for (name, value, expected) in [
            ("Retry-After", "7", seconds(7)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT", seconds(3)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", seconds(0)),
            ("retry-after", "soon", Pushback::None),
            (
                "grpc-retry-pushback-ms",
                "20",
                Pushback::After(Duration::from_millis(20)),
            ),
            ("grpc-retry-pushback-ms", "-1", Pushback::Never),
            ("grpc-retry-pushback-ms", "soon", Pushback::Never),
        ] {
            let read = pushback(&fields(&[(name, value)]), || now);
            assert_eq!(read, expected, "{name}: {value}");
        }
        assert_eq!(pushback(&fields(&[]), || now), Pushback::None);
    }
}
