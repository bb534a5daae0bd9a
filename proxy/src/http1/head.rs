//! Heads from bytes and to bytes. What may be read in two ways is refused (RFC 9112 sections 2.2, 3, 5, 6).

use std::mem::MaybeUninit;

use http::{Method, StatusCode, Uri, Version};

use super::body::Framing;
use crate::message::fields::{Fields, Known, Span};
use crate::message::head::{RequestHead, ResponseHead};

/// Fields one head may have.
const MAX_FIELDS: usize = 128;

/// Why a head is not taken, in words for the log and the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// 400 from us to a client, 502 where a task sent it.
    #[error("{0}")]
    Bad(&'static str),
    /// 431 (RFC 6585 section 5).
    #[error("the head is larger than the limit")]
    TooLarge,
    /// 505.
    #[error("HTTP version not supported")]
    Version,
}

/// A head that was read, and what follows it on the connection.
#[derive(Debug)]
pub(crate) struct Parsed<H> {
    pub(crate) head: H,
    pub(crate) framing: Framing,
    /// Whether the connection may carry another message after this one (RFC 9112 section 9.3).
    pub(crate) keep_alive: bool,
    /// Bytes the head took.
    pub(crate) length: usize,
}

/// Copies the fields of a parsed head, which lies at the start of `bytes`.
fn fields(bytes: &[u8], length: usize, headers: &[httparse::Header<'_>]) -> Fields {
    let base = bytes.as_ptr() as usize;
    let span = |slice: &[u8]| Span::new(slice.as_ptr() as usize - base, slice.len());
    let mut fields = Fields::over(&bytes[..length], headers.len());
    for header in headers {
        fields.push_spans(span(header.name.as_bytes()), span(header.value));
    }
    fields
}

fn span_in(bytes: &[u8], part: &str) -> Span {
    Span::new(part.as_ptr() as usize - bytes.as_ptr() as usize, part.len())
}

fn refused(error: httparse::Error) -> Refused {
    match error {
        httparse::Error::HeaderName => Refused::Bad("a field name has characters it may not have"),
        httparse::Error::HeaderValue => Refused::Bad("a field value has control characters"),
        httparse::Error::NewLine => Refused::Bad("a line does not end in CRLF"),
        httparse::Error::Status => Refused::Bad("the status line is malformed"),
        httparse::Error::Token => Refused::Bad("the request line is malformed"),
        httparse::Error::TooManyHeaders => Refused::TooLarge,
        httparse::Error::Version => Refused::Version,
    }
}

/// Every line of a head ends in CRLF, never in LF alone (httparse takes both; RFC 9112 section 2.2 lets us refuse).
fn ends_lines_in_crlf(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).all(|at| at > 0 && head[at - 1] == b'\r')
}

/// A request's head at the start of `bytes`; `None` while it is incomplete.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<Parsed<RequestHead>>, Refused> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed
        .parse_with_uninit_headers(bytes, &mut headers)
        .map_err(refused)?;
    let httparse::Status::Complete(length) = status else {
        return Ok(None);
    };
    if !ends_lines_in_crlf(&bytes[..length]) {
        return Err(Refused::Bad("a line ends in LF alone"));
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Refused::Bad("the request line is malformed"));
    };
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| Refused::Bad("the method is not a token"))?;
    let version = version(minor);
    let fields = fields(bytes, length, parsed.headers);
    let (authority, target) = if target.starts_with('/') {
        (Span::EMPTY, span_in(bytes, target))
    } else {
        other_form(bytes, target, &method)?
    };
    let hosts = fields.values(Known::Host).take(2).count();
    let may_lack = version == Version::HTTP_10 || authority != Span::EMPTY;
    if hosts > 1 || (hosts == 0 && !may_lack) {
        return Err(Refused::Bad("there must be exactly one Host field"));
    }
    let framing = match framing(&fields, version)? {
        Some(framing) => framing,
        None => Framing::Length(0),
    };
    let keep_alive = keep_alive(&fields, version);
    let head = RequestHead::new(method, version, authority, target, fields);
    Ok(Some(Parsed {
        head,
        framing,
        keep_alive,
        length,
    }))
}

/// The other forms of a target (RFC 9112 section 3.2): absolute, `*`, and CONNECT's authority. Returns authority and path.
fn other_form(bytes: &[u8], target: &str, method: &Method) -> Result<(Span, Span), Refused> {
    let whole = span_in(bytes, target);
    if target == "*" && *method == Method::OPTIONS {
        return Ok((Span::EMPTY, whole));
    }
    let malformed = Refused::Bad("the request target is malformed");
    let uri: Uri = target.parse().map_err(|_| malformed)?;
    let authority = uri.authority().ok_or(malformed)?.as_str();
    if authority.contains('@') {
        return Err(Refused::Bad("user information in the request target"));
    }
    if *method == Method::CONNECT {
        return Ok((whole, whole));
    }
    let after_scheme = target.find("://").ok_or(malformed)? + 3;
    let start = whole.start as usize + after_scheme;
    let path = start + authority.len();
    let authority = Span::new(start, authority.len());
    let end = whole.end as usize;
    if bytes.get(path) == Some(&b'/') && path < end {
        return Ok((authority, Span::new(path, end - path)));
    }
    if path < end {
        return Err(Refused::Bad(
            "the request target has a query without a path",
        ));
    }
    // `http://host`: its path is `/` (RFC 9110 section 4.2.3), found in the scheme's own slashes.
    Ok((authority, Span::new(start - 1, 1)))
}

const fn version(minor: u8) -> Version {
    if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

/// A response's head at the start of `bytes`, to a request of that method; `None` while it is incomplete.
pub(crate) fn response(
    bytes: &[u8],
    method: &Method,
) -> Result<Option<Parsed<ResponseHead>>, Refused> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, bytes, &mut headers)
        .map_err(refused)?;
    let httparse::Status::Complete(length) = status else {
        return Ok(None);
    };
    if !ends_lines_in_crlf(&bytes[..length]) {
        return Err(Refused::Bad("a line ends in LF alone"));
    }
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Refused::Bad("the status line is malformed"));
    };
    let status = StatusCode::from_u16(code)
        .map_err(|_| Refused::Bad("the status is not a number of three digits"))?;
    let version = version(minor);
    let reason = reason(&bytes[..length]);
    let fields = fields(bytes, length, parsed.headers);
    let promised = framing(&fields, version)?;
    let mut keep_alive = keep_alive(&fields, version);
    let head = ResponseHead::with_reason(status, reason, fields);
    let framing = if head.is_whole(method) {
        Framing::Length(0)
    } else {
        promised.unwrap_or(Framing::UntilClose)
    };
    if framing == Framing::UntilClose {
        keep_alive = false;
    }
    Ok(Some(Parsed {
        head,
        framing,
        keep_alive,
        length,
    }))
}

/// The reason phrase as it came: httparse leaves out those that are not ASCII. It may be empty, its space missing.
fn reason(head: &[u8]) -> Option<Span> {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    // httparse lets lines before the first be empty.
    let first = head.iter().position(|byte| !is_end(byte))?;
    let line = head[first..].iter().position(is_end)?;
    let before = "HTTP/1.1 200 ".len().min(line);
    Some(Span::new(first + before, line - before))
}

/// What the fields say of the body's length (RFC 9112 section 6.3); anything ambiguous is refused.
fn framing(fields: &Fields, version: Version) -> Result<Option<Framing>, Refused> {
    let mut length: Option<u64> = None;
    for value in fields.values(Known::ContentLength) {
        let number = decimal(value).ok_or(Refused::Bad("Content-Length is not a number"))?;
        if length.is_some_and(|known| known != number) {
            return Err(Refused::Bad("there are different Content-Lengths"));
        }
        length = Some(number);
    }
    if !fields.has(Known::TransferEncoding) {
        return Ok(length.map(Framing::Length));
    }
    if length.is_some() {
        return Err(Refused::Bad("Content-Length beside Transfer-Encoding"));
    }
    let mut codings = fields.values(Known::TransferEncoding);
    let chunked = codings
        .next()
        .is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    if !chunked || codings.next().is_some() || version == Version::HTTP_10 {
        return Err(Refused::Bad("Transfer-Encoding is not just chunked"));
    }
    Ok(Some(Framing::Chunked))
}

/// One or more digits and nothing else (RFC 9110 section 8.6).
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn keep_alive(fields: &Fields, version: Version) -> bool {
    let says = |option: &[u8]| {
        fields
            .values(Known::Connection)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(option))
    };
    if !fields.has(Known::Connection) {
        return version == Version::HTTP_11;
    }
    if version == Version::HTTP_10 {
        return says(b"keep-alive") && !says(b"close");
    }
    !says(b"close")
}

/// Renders the request line and the fields, in origin form.
pub(crate) fn write_request(head: &RequestHead, to: &mut Vec<u8>) {
    to.extend_from_slice(head.method.as_str().as_bytes());
    to.push(b' ');
    to.extend_from_slice(head.target());
    to.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(&head.fields, to);
}

/// Renders the status line and the fields.
pub(crate) fn write_response(head: &ResponseHead, to: &mut Vec<u8>) {
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(head.status.as_str().as_bytes());
    to.push(b' ');
    to.extend_from_slice(head.reason());
    to.extend_from_slice(b"\r\n");
    write_fields(&head.fields, to);
}

/// Renders the fields and the empty line after them.
pub(crate) fn write_fields(fields: &Fields, to: &mut Vec<u8>) {
    for (_, name, value) in fields.iter() {
        to.extend_from_slice(name);
        to.extend_from_slice(b": ");
        to.extend_from_slice(value);
        to.extend_from_slice(b"\r\n");
    }
    to.extend_from_slice(b"\r\n");
}

/// Fields of a trailer section that lies whole in `bytes`, its empty line included.
pub(crate) fn trailers(bytes: &[u8]) -> Result<Fields, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let parsed = httparse::parse_headers(bytes, &mut headers).map_err(refused)?;
    let httparse::Status::Complete((length, headers)) = parsed else {
        return Err(Refused::Bad("the trailer section is malformed"));
    };
    if !ends_lines_in_crlf(&bytes[..length]) {
        return Err(Refused::Bad("a line ends in LF alone"));
    }
    Ok(fields(bytes, length, headers))
}

#[cfg(test)]
mod tests;
