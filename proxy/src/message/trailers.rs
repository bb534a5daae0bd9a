//! What may not travel in trailers (RFC 9110 section 6.5.1).

use super::fields::{Fields, Known};

/// Fields that say where a message goes, where it ends, what its connection does, what two sidecars say to each other, or who
/// called: after the body somebody might still believe them.
pub(crate) const FORBIDDEN: [Known; 11] = [
    Known::Connection,
    Known::ContentLength,
    Known::ForwardedClientCert,
    Known::Hop,
    Known::Host,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Trailer,
    Known::TransferEncoding,
    Known::Upgrade,
];

/// Drops what may not be there; `None` when nothing is left.
pub(crate) fn permitted(mut fields: Fields) -> Option<Fields> {
    if fields.has_any(&FORBIDDEN) {
        fields.remove(|known, _| FORBIDDEN.contains(&known));
    }
    let some = fields.iter().next().is_some();
    some.then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::fields::tests::fields;

    #[test]
    fn only_what_is_about_the_content_stays() {
        let given = fields(&[("X-Sum", "1"), ("host", "a"), ("Content-Length", "7")]);
        let left = permitted(given).expect("one stays");
        assert_eq!(left.iter().count(), 1);
        assert_eq!(left.named(b"x-sum").collect::<Vec<_>>(), [b"1"]);
        assert!(permitted(fields(&[("Transfer-Encoding", "chunked")])).is_none());
        assert!(permitted(Fields::default()).is_none());
    }
}
