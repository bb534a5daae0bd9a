//! The heads of requests and responses, whichever version of HTTP they came by.

use std::fmt;

use h2::ext::Protocol;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request, response};

use super::authority::is_authority;
use super::fields::{Fields, Known, Span};
use crate::error::{Kind, ProxyError};

/// A request's head.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    /// What the client speaks.
    pub(crate) version: Version,
    /// Of an absolute-form target or `:authority`; empty when only Host says it.
    authority: Span,
    /// Path and query, or `*`.
    target: Span,
    /// The same as it came by HTTP/2.
    uri: Option<Uri>,
    /// What an extended CONNECT asks for (RFC 8441 section 4).
    pub(crate) protocol: Option<Protocol>,
    pub(crate) fields: Fields,
}

impl RequestHead {
    /// The spans point into the text of `fields`.
    pub(crate) fn new(
        method: Method,
        version: Version,
        authority: Span,
        target: Span,
        fields: Fields,
    ) -> Self {
        Self {
            method,
            version,
            authority,
            target,
            uri: None,
            protocol: None,
            fields,
        }
    }

    /// Path and query as they came.
    pub(crate) fn target(&self) -> &[u8] {
        self.fields.bytes(self.target)
    }

    /// The target without its query.
    pub(crate) fn path(&self) -> &[u8] {
        let target = self.target();
        match target.iter().position(|byte| *byte == b'?') {
            Some(query) => &target[..query],
            None => target,
        }
    }

    /// Host and port the request is for: the target's own, else the Host field's (RFC 9110 section 7.2).
    pub(crate) fn authority(&self) -> &[u8] {
        if self.authority != Span::EMPTY {
            return self.fields.bytes(self.authority);
        }
        self.fields.value(Known::Host).unwrap_or_default()
    }

    /// Gives the next hop a Host where the request came without one, or where its target overrides it (RFC 9112 section 3.2).
    pub(crate) fn ensure_host(&mut self, other: impl FnOnce() -> String) {
        if self.authority != Span::EMPTY {
            let authority = self.fields.bytes(self.authority).to_vec();
            self.fields.set(Known::Host, "host", &authority);
        } else if !self.fields.has(Known::Host) {
            self.fields.push("host", other().as_bytes());
        }
    }

    /// Whether an HTTP/2 request that h2 (0.4) has let through is one, and can be one in HTTP/1.1 (RFC 9113 sections 8.2 and 8.3).
    /// `max_target` bounds its `:path` in bytes.
    pub(crate) fn check_h2<B>(request: &Request<B>, max_target: usize) -> Result<(), Unfit> {
        let (uri, headers) = (request.uri(), request.headers());
        let authority = uri.authority().map(|authority| authority.as_str());
        if authority.is_some_and(|authority| !is_authority(authority.as_bytes())) {
            return Err(Unfit::Malformed(":authority is not a host and port"));
        }
        let (mut host, mut length) = (None, Length::default());
        for (name, value) in headers {
            if is_unfit((name, value)) {
                return Err(Unfit::Malformed(UNFIT));
            }
            if name == header::CONTENT_LENGTH {
                length.see(value).map_err(Unfit::Malformed)?;
            }
            if name == header::HOST && host.replace(value.as_bytes()).is_some() {
                return Err(Unfit::Malformed("Host is there twice"));
            }
        }
        let differs = |host: &[u8]| match authority {
            Some(authority) => !host.eq_ignore_ascii_case(authority.as_bytes()),
            // HTTP/1.1 has empty ones.
            None => !host.is_empty() && !is_authority(host),
        };
        if host.is_some_and(differs) {
            return Err(Unfit::Malformed("Host is not :authority, or not a host"));
        }
        let is_connect = request.method() == Method::CONNECT;
        let target = uri.path_and_query();
        if authority.is_none()
            && target
                .is_some_and(|target| target == "/" && *target != PathAndQuery::from_static("/"))
        {
            // http shows a path that is not there as a slash, but does not compare it so.
            return Err(Unfit::Malformed(":path is missing"));
        }
        match target.map(PathAndQuery::as_str) {
            None if is_connect => {}
            None => return Err(Unfit::Malformed(":path is missing")),
            Some("*") if request.method() == Method::OPTIONS => {}
            Some(target) if !target.starts_with('/') => {
                return Err(Unfit::Malformed(":path does not begin with a slash"));
            }
            Some(target) if target.len() > max_target => return Err(Unfit::TargetTooLong),
            Some(_) => {}
        }
        match (authority, host) {
            (None, _) if is_connect => Err(Unfit::Malformed("CONNECT without :authority")),
            (None, None) => Err(Unfit::NoAuthority),
            _ => Ok(()),
        }
    }

    /// The head of an HTTP/2 request (RFC 9113 section 8.3.1). Host is `:authority`'s to say.
    pub(crate) fn from_h2(mut parts: request::Parts) -> Self {
        one_length(&mut parts.headers);
        let mut fields = Fields::from_map(parts.headers);
        let authority = parts.uri.authority().map_or(Span::EMPTY, |authority| {
            fields.store(authority.as_str().as_bytes())
        });
        let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = fields.store(target.as_bytes());
        Self {
            method: parts.method,
            version: Version::HTTP_2,
            authority,
            target,
            uri: Some(parts.uri),
            protocol: parts.extensions.remove(),
            fields,
        }
    }

    /// As an HTTP/2 request: `:scheme` and `:authority` in the URI, no Host and nothing of the connection (RFC 9113 section 8.2.2).
    pub(crate) fn h2_request<B>(&mut self, body: B) -> Result<Request<B>, ProxyError> {
        // Host may be empty; then there is no `:authority`, and the field says so itself.
        let nameless = self.authority().is_empty();
        let uri = match self.uri.take().filter(|uri| uri.authority().is_some()) {
            Some(uri) => uri,
            None => {
                let mut uri = Uri::builder().path_and_query(self.target());
                if !nameless {
                    uri = uri.scheme(Scheme::HTTP).authority(self.authority());
                }
                let built = uri.build();
                built.map_err(|error| ProxyError::caused(Kind::DownstreamProtocol, error))?
            }
        };
        let headers = self.fields.take_map();
        self.with_uri(uri, headers, nameless, body)
    }

    /// The same with fields made elsewhere, for a request that has a host.
    pub(crate) fn h2_request_with<B>(
        &self,
        headers: HeaderMap,
        body: B,
    ) -> Result<Request<B>, ProxyError> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority())
            .path_and_query(self.target())
            .build();
        let uri = uri.map_err(|error| ProxyError::caused(Kind::DownstreamProtocol, error))?;
        self.with_uri(uri, headers, false, body)
    }

    fn with_uri<B>(
        &self,
        uri: Uri,
        mut headers: HeaderMap,
        nameless: bool,
        body: B,
    ) -> Result<Request<B>, ProxyError> {
        if !nameless {
            headers.remove(http::header::HOST);
        }
        headers.remove(http::header::TRANSFER_ENCODING);
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        // h2 (0.4) takes a request without authority only if it was one of HTTP/1.1.
        *request.version_mut() = if nameless {
            Version::HTTP_11
        } else {
            Version::HTTP_2
        };
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        if let Some(protocol) = &self.protocol {
            request.extensions_mut().insert(protocol.clone());
        }
        Ok(request)
    }
}

/// Why what came on an HTTP/2 stream is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Malformed: the stream is reset (RFC 9113 section 8.1.1).
    Malformed(&'static str),
    /// Neither `:authority` nor Host (RFC 9110 section 7.2): 400.
    NoAuthority,
    /// 414.
    TargetTooLong,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(why) => why,
            Self::NoAuthority => "the request names no host",
            Self::TargetTooLong => "the request's target is too long",
        })
    }
}

const UNFIT: &str = "white space around a field's value, or a quote in its name";

/// Whether a field that h2 (0.4) and http (1.5) let through is malformed: HTTP/1.1 would drop white space around its value (RFC 9113
/// section 8.2.1), and a name with a quote is no token (RFC 9110 section 5.1).
pub(crate) fn is_unfit((name, value): (&HeaderName, &HeaderValue)) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    blank(bytes.first()) || blank(bytes.last()) || name.as_str().contains('"')
}

/// The longest body: many who read after us count in 64 bits with a sign.
pub(crate) const MAX_LENGTH: u64 = i64::MAX as u64;

/// A body's length as Content-Length says it: one or more digits and nothing else (RFC 9110 section 8.6), up to [`MAX_LENGTH`].
pub(crate) fn content_length(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let number = text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    (number <= MAX_LENGTH).then_some(number)
}

/// What the Content-Lengths of an HTTP/2 message say; h2 (0.4) lets through what HTTP/1.1 refuses.
#[derive(Default)]
struct Length {
    known: Option<u64>,
    repeated: bool,
}

impl Length {
    fn see(&mut self, value: &HeaderValue) -> Result<(), &'static str> {
        let number = content_length(value.as_bytes()).ok_or("Content-Length is not a number")?;
        let before = self.known.replace(number);
        self.repeated |= before.is_some();
        if before.is_some_and(|before| before != number) {
            return Err("there are different Content-Lengths");
        }
        Ok(())
    }

    fn is_known(&self) -> bool {
        self.known.is_some()
    }
}

/// A response's head.
#[derive(Debug, Clone)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// As the task spelt it; `None` where the status' own is meant.
    reason: Option<Span>,
    pub(crate) fields: Fields,
}

impl ResponseHead {
    pub(crate) fn new(status: StatusCode) -> Self {
        Self::with_reason(status, None, Fields::default())
    }

    /// The head of a text of the sidecar's own.
    pub(crate) fn of_text(status: StatusCode) -> Self {
        let mut head = Self::new(status);
        head.fields
            .push("content-type", b"text/plain; charset=utf-8");
        head
    }

    /// The span points into the text of `fields`.
    pub(crate) fn with_reason(status: StatusCode, reason: Option<Span>, fields: Fields) -> Self {
        Self {
            status,
            reason,
            fields,
        }
    }

    /// The reason phrase, as it came or the status' own.
    pub(crate) fn reason(&self) -> &[u8] {
        match self.reason {
            Some(reason) => self.fields.bytes(reason),
            None => self
                .status
                .canonical_reason()
                .unwrap_or_default()
                .as_bytes(),
        }
    }

    /// The reason phrase where it is not the status' own.
    pub(crate) fn own_reason(&self) -> Option<&[u8]> {
        let own = self.fields.bytes(self.reason?);
        let canonical = self.status.canonical_reason().unwrap_or_default();
        (own != canonical.as_bytes()).then_some(own)
    }

    /// As the task spelt it, told beside the fields.
    pub(crate) fn set_reason(&mut self, reason: &[u8]) {
        self.reason = Some(self.fields.store(reason));
    }

    /// Whether the head alone is the whole message, whatever its fields promise (RFC 9110 section 6.4.1).
    pub(crate) fn is_whole(&self, method: &Method) -> bool {
        *method == Method::HEAD
            || self.status.is_informational()
            || self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED
    }

    /// The head of an HTTP/2 response, if it can be one in HTTP/1.1, too (RFC 9113 sections 8.2.1 and 8.6).
    pub(crate) fn from_h2(mut parts: response::Parts) -> Result<Self, ProxyError> {
        let malformed = |why| ProxyError::caused(Kind::UpstreamProtocol, why);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(malformed("101 on an HTTP/2 stream"));
        }
        let mut length = Length::default();
        for (name, value) in &parts.headers {
            if is_unfit((name, value)) {
                return Err(malformed(UNFIT));
            }
            if name == header::CONTENT_LENGTH {
                length.see(value).map_err(malformed)?;
            }
        }
        let never = parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT;
        if never && length.is_known() {
            // No such response may have one (RFC 9110 section 8.6).
            parts.headers.remove(header::CONTENT_LENGTH);
        } else if length.repeated
            && let Some(first) = parts.headers.get(header::CONTENT_LENGTH).cloned()
        {
            parts.headers.insert(header::CONTENT_LENGTH, first);
        }
        let fields = Fields::of_map(parts.headers);
        Ok(Self::with_reason(parts.status, None, fields))
    }

    /// As an HTTP/2 response.
    pub(crate) fn h2_response<B>(&mut self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.fields.take_map();
        response
            .headers_mut()
            .remove(http::header::TRANSFER_ENCODING);
        response
    }
}

/// Leaves one Content-Length of several: they are the same number, as [`RequestHead::check_h2`] has seen to.
pub(crate) fn one_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next();
    if let Some(length) = lengths.next().and(first).cloned() {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_h2_request_keeps_its_authority_over_host() {
        let mut request = Request::get("http://orders:80/a?b=1").body(()).unwrap();
        *request.version_mut() = Version::HTTP_2;
        let mut head = RequestHead::from_h2(request.into_parts().0);
        assert_eq!(head.target(), b"/a?b=1");
        assert_eq!(head.path(), b"/a");
        head.ensure_host(|| "other".to_owned());
        assert_eq!(head.fields.value(Known::Host), Some(&b"orders:80"[..]));
        let back = head.h2_request(()).unwrap();
        assert_eq!(back.uri(), "http://orders:80/a?b=1");
        assert!(!back.headers().contains_key("host"));
    }

    #[test]
    fn an_h2_request_that_could_not_be_one_in_http1_is_refused() {
        let check = |request: http::request::Builder| {
            RequestHead::check_h2(&request.body(()).unwrap(), 20).err()
        };
        let malformed = |request| matches!(check(request), Some(Unfit::Malformed(_)));
        assert_eq!(check(Request::get("http://a/b").header("host", "A")), None);
        assert_eq!(
            check(
                Request::options("http://a")
                    .method("OPTIONS")
                    .uri("*")
                    .header("host", "a")
            ),
            None
        );
        assert!(malformed(Request::get("http://a/b").header("x", "1 ")));
        assert!(malformed(
            Request::get("http://a/b").header("content-length", "")
        ));
        for length in ["+5", "5, 5", "9999999999999999999", "9223372036854775808"] {
            let request = Request::get("http://a/b").header("content-length", length);
            assert!(malformed(request), "{length}");
        }
        assert!(malformed(
            Request::get("http://a/b")
                .header("content-length", "5")
                .header("content-length", "6")
        ));
        assert!(malformed(Request::get("http://a/b").header("host", "b")));
        assert!(malformed(Request::get("http://u@a/b")));
        assert!(malformed(Request::get("*").header("host", "a")));
        let long = Request::get("http://a/long-long-long-long-long");
        assert_eq!(check(long), Some(Unfit::TargetTooLong));
        assert_eq!(check(Request::get("/b")), Some(Unfit::NoAuthority));
    }

    #[test]
    fn an_h2_response_has_one_length_that_http1_could_have() {
        let lengths = |status: u16, lengths: &[&str]| {
            let response = Response::builder().status(status);
            let response = lengths
                .iter()
                .fold(response, |response, length| {
                    response.header("content-length", *length)
                })
                .body(())
                .unwrap();
            let head = ResponseHead::from_h2(response.into_parts().0).ok()?;
            let map = { head }.fields.take_map();
            let all = map.get_all("content-length").iter().cloned();
            Some(all.collect::<Vec<_>>())
        };
        assert_eq!(lengths(200, &["5"]).unwrap(), ["5"]);
        assert_eq!(lengths(200, &["5", "05"]).unwrap(), ["5"]);
        assert!(lengths(204, &["5"]).unwrap().is_empty());
        assert!(lengths(103, &["5"]).unwrap().is_empty());
        for bad in [&[""][..], &["5", "6"], &["9999999999999999999"], &["+5"]] {
            assert_eq!(lengths(200, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_asterisk_stays_one_in_h2() {
        let mut fields = Fields::default();
        fields.push("host", b"orders");
        let target = fields.store(b"*");
        let mut head = RequestHead::new(
            Method::OPTIONS,
            Version::HTTP_11,
            Span::EMPTY,
            target,
            fields,
        );
        let request = head.h2_request(()).unwrap();
        assert_eq!(request.uri().path_and_query().unwrap().as_str(), "*");
    }
}
