//! An HTTP/2 request that goes to a task by HTTP/1.1: the same message, or none.
//!
//! The input is text: method, path and authority on a line each, then fields (`name:value`) up to an empty line, DATA frames up
//! to an empty line, trailers.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version};
use outrigger_proxy::fuzzing::forwarded_from_h2;

use crate::reference::{self, Field, values};

/// Reads what is written with the other reader.
pub fn check(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(head) = head(&mut lines) else { return };
    let data: Vec<&[u8]> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let Some(trailers) = fields(&mut lines) else {
        return;
    };
    let body = data.concat();
    if says_another_length(head.headers(), body.len()) {
        return;
    }
    let (method, path) = (head.method().clone(), head.uri().path_and_query().cloned());
    let (uri, headers) = (head.uri().clone(), head.headers().clone());
    let frames = data
        .iter()
        .map(|data| Bytes::copy_from_slice(data))
        .collect();
    let last = (!trailers.is_empty()).then(|| trailers.clone());
    let wire = forwarded_from_h2(head, frames, last).expect("socket pairs can be made");
    let Some(wire) = wire else { return };
    let shown = String::from_utf8_lossy(&wire);
    let (message, length) =
        reference::message(&wire).unwrap_or_else(|stop| panic!("{stop:?}: {shown}"));
    assert_eq!(length, wire.len(), "bytes after the message: {shown}");
    assert_eq!(message.method, method.as_str().as_bytes());
    let path = path.as_ref().map_or("/", PathAndQuery::as_str);
    assert_eq!(message.target, path.as_bytes());
    assert_eq!(message.body, body, "{shown}");
    if let Some(authority) = uri.authority() {
        let host = [authority.as_str().as_bytes()];
        assert_eq!(values(&message.fields, "host"), host, "{shown}");
    }
    // TE says the same once, and that it is for one hop; cookies are joined.
    let written = [
        "host",
        "connection",
        "content-length",
        "cookie",
        "te",
        "transfer-encoding",
    ];
    same(&message.fields, &headers, &written);
    if message.chunked {
        same(&message.trailers, &trailers, &CHANGED_IN_TRAILERS);
    }
}

/// Trailers that are dropped, or joined.
const CHANGED_IN_TRAILERS: [&str; 9] = [
    "cookie",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "expect",
    "te",
    "trailer",
    "upgrade",
];

/// The same values for every name, in order, but for the names in `except`.
fn same(written: &[Field], given: &HeaderMap, except: &[&str]) {
    let counted = |name: &str| !except.contains(&name);
    for name in given.keys().filter(|name| counted(name.as_str())) {
        let wanted: Vec<&[u8]> = given
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        assert_eq!(values(written, name.as_str()), wanted, "{name}");
    }
    for (name, _) in written {
        let name = String::from_utf8_lossy(name);
        assert!(
            !counted(&name) || given.contains_key(name.as_ref()),
            "{name} was added"
        );
    }
}

/// What the sidecar's HTTP/2 library refuses before it is a request (RFC 9113 section 8) is none here either.
fn head<'a>(lines: &mut impl Iterator<Item = &'a [u8]>) -> Option<Request<()>> {
    let (method, path, authority) = (lines.next()?, lines.next()?, lines.next()?);
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(method).ok()?;
    *request.version_mut() = Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(
        PathAndQuery::try_from(path)
            .ok()
            .filter(|_| !path.is_empty())?,
    );
    if !authority.is_empty() {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::try_from(authority).ok()?);
    }
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.headers_mut() = fields(lines)?;
    Some(request)
}

fn fields<'a>(lines: &mut impl Iterator<Item = &'a [u8]>) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let name = HeaderName::from_lowercase(name).ok()?;
        let value = HeaderValue::from_bytes(&value[1..]).ok()?;
        let of_connection = [
            "connection",
            "transfer-encoding",
            "upgrade",
            "keep-alive",
            "proxy-connection",
        ];
        if of_connection.contains(&name.as_str()) || (name == "te" && value != "trailers") {
            return None;
        }
        map.append(name, value);
    }
    Some(map)
}

/// The library holds every Content-Length against the DATA frames.
fn says_another_length(headers: &HeaderMap, length: usize) -> bool {
    let mut said = headers.get_all("content-length").into_iter();
    said.any(|said| {
        let digits = said.as_bytes().iter().all(u8::is_ascii_digit);
        let number = said.to_str().ok().filter(|_| digits);
        number.and_then(|text| text.parse().ok()) != Some(length)
    })
}
