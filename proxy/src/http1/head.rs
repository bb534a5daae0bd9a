//! Heads from bytes and to bytes. What may be read in two ways is refused (RFC 9112 sections 2.2, 3, 5, 6).

use std::mem::MaybeUninit;
use std::ops::Range;

use http::{Method, StatusCode, Version};

use super::body::Framing;
use super::target;
use crate::message::fields::{Fields, Known, Span};
use crate::message::head::{RequestHead, ResponseHead, content_length};

/// Fields one head may have.
const MAX_FIELDS: usize = 128;

/// Options that Connection may have: each is held against each field.
const MAX_OPTIONS: usize = 64;
/// Empty lines before a request that are passed over (RFC 9112 section 2.2).
const MAX_EMPTY_LINES: usize = 4;
/// How much longer a request line may be while its target's end is awaited.
const AROUND_TARGET: usize = 256;

/// What a request's head may be at most, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) head: usize,
    pub(crate) target: usize,
}

impl Limits {
    /// Which of them an incomplete head is over.
    pub(crate) fn exceeded_by(self, bytes: &[u8]) -> Option<Refused> {
        let line = self.head.min(self.target + AROUND_TARGET);
        if bytes.len() >= line && memchr::memchr(b'\n', bytes).is_none() {
            Some(Refused::TargetTooLong)
        } else {
            (bytes.len() >= self.head).then_some(Refused::TooLarge)
        }
    }
}

/// Why a head is not taken, in words for the log and the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// 400 from us to a client, 502 where a task sent it.
    #[error("{0}")]
    Bad(&'static str),
    /// 431 (RFC 6585 section 5).
    #[error("the head is larger than the limit")]
    TooLarge,
    /// 414.
    #[error("the request target is longer than the limit")]
    TargetTooLong,
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

/// Copies a head's `bytes`; its fields were found in `text`, which is the same or stands in for it.
fn fields(text: &[u8], bytes: &[u8], headers: &[httparse::Header<'_>]) -> Fields {
    let base = text.as_ptr() as usize;
    let span = |slice: &[u8]| Span::new(slice.as_ptr() as usize - base, slice.len());
    let mut fields = Fields::over(bytes, headers.len());
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
        httparse::Error::Token => MALFORMED_LINE,
        httparse::Error::TooManyHeaders => Refused::TooLarge,
        httparse::Error::Version => Refused::Version,
    }
}

/// Every line of a head ends in CRLF, never in LF alone (httparse takes both; RFC 9112 section 2.2 lets us refuse).
pub(crate) fn ends_lines_in_crlf(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).all(|at| at > 0 && head[at - 1] == b'\r')
}

/// A request's head at the start of `bytes`, with a target of at most so many bytes; `None` while it is incomplete.
pub(crate) fn request(
    bytes: &[u8],
    max_target: usize,
) -> Result<Option<Parsed<RequestHead>>, Refused> {
    match request_as(bytes, bytes, max_target) {
        // httparse takes UTF-8 alone for a target; other bytes pass as they came.
        Err(MALFORMED_LINE) if !bytes[first_line(bytes)].is_ascii() => {
            let mut stand_in = bytes.to_vec();
            let line = stand_in[first_line(bytes)].iter_mut();
            // A method that has such bytes is left as malformed as it is.
            line.skip_while(|byte| **byte != b' ')
                .filter(|byte| !byte.is_ascii())
                .for_each(|byte| *byte = b'x');
            request_as(bytes, &stand_in, max_target)
        }
        read => read,
    }
}

const MALFORMED_LINE: Refused = Refused::Bad("the request line is malformed");

/// The first line that is not empty, or what there is of it.
fn first_line(bytes: &[u8]) -> Range<usize> {
    let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = bytes.iter().take_while(|byte| ends(byte)).count();
    let length = bytes[start..].iter().take_while(|byte| !ends(byte)).count();
    start..start + length
}

/// Reads `text`, which is as long as `bytes` and stands in for it.
fn request_as(
    bytes: &[u8],
    text: &[u8],
    max_target: usize,
) -> Result<Option<Parsed<RequestHead>>, Refused> {
    if matches!(text, [b'\r' | b'\n', ..]) {
        let before = &text[..first_line(text).start];
        if !ends_lines_in_crlf(before) || before.len() > 2 * MAX_EMPTY_LINES {
            return Err(Refused::Bad("there is no request after empty lines"));
        }
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = match parsed.parse_with_uninit_headers(text, &mut headers) {
        Err(httparse::Error::Version) => return Err(version_refused(text)),
        status => status.map_err(refused)?,
    };
    let httparse::Status::Complete(length) = status else {
        return Ok(None);
    };
    if !ends_lines_in_crlf(&text[..length]) {
        return Err(Refused::Bad("a line ends in LF alone"));
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(MALFORMED_LINE);
    };
    if target.len() > max_target {
        return Err(Refused::TargetTooLong);
    }
    if memchr::memchr(b'#', target.as_bytes()).is_some() {
        return Err(Refused::Bad("the request target has a fragment"));
    }
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| Refused::Bad("the method is not a token"))?;
    let version = version(minor);
    let whole = span_in(text, target);
    let mut fields = fields(text, &bytes[..length], parsed.headers);
    let (authority, target) = if target.starts_with('/') && method != Method::CONNECT {
        (Span::EMPTY, whole)
    } else {
        target::other_form(&mut fields, whole, &method)?
    };
    target::check_host(&fields, version)?;
    let framing = match framing(&mut fields, version)? {
        Some(framing) => framing,
        None => Framing::Length(0),
    };
    let keep_alive = keep_alive(&fields, version)?;
    let head = RequestHead::new(method, version, authority, target, fields);
    Ok(Some(Parsed {
        head,
        framing,
        keep_alive,
        length,
    }))
}

/// 505 is for a version; what stands in its place and is none is malformed.
fn version_refused(bytes: &[u8]) -> Refused {
    let mut words = bytes[first_line(bytes)].split(|byte| *byte == b' ');
    let version = words.nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    match version {
        Some([major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() && words.next().is_none() =>
        {
            Refused::Version
        }
        _ => Refused::Bad("the HTTP version is malformed"),
    }
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
    if matches!(bytes, [b'\r' | b'\n', ..]) {
        // Nothing may stand before it (RFC 9112 section 2.2 is about requests); httparse would pass over it.
        return Err(Refused::Bad("an empty line instead of a status line"));
    }
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
    let mut fields = fields(bytes, &bytes[..length], parsed.headers);
    let promised = framing(&mut fields, version)?;
    let mut keep_alive = keep_alive(&fields, version)?;
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        // No such response may have them, whatever the method (RFC 9110 section 8.6, RFC 9112 section 6.1).
        fields.remove_known(Known::ContentLength);
        fields.remove_known(Known::TransferEncoding);
    }
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
    const BEFORE: usize = b"HTTP/1.1 200 ".len();
    let end = memchr::memchr(b'\r', head)?;
    Some(Span::new(BEFORE.min(end), end.saturating_sub(BEFORE)))
}

/// What the fields say of the body's length (RFC 9112 section 6.3); anything ambiguous is refused.
fn framing(fields: &mut Fields, version: Version) -> Result<Option<Framing>, Refused> {
    let (mut length, mut repeated) = (None, false);
    for value in fields.values(Known::ContentLength) {
        let number = content_length(value).ok_or(Refused::Bad("Content-Length is not a number"))?;
        repeated |= length.is_some();
        if length.is_some_and(|known| known != number) {
            return Err(Refused::Bad("there are different Content-Lengths"));
        }
        length = Some(number);
    }
    if repeated {
        // Equal ones leave as one (RFC 9112 section 6.3).
        let first = fields.value(Known::ContentLength).unwrap_or_default();
        let first = first.to_vec();
        fields.set(Known::ContentLength, "content-length", &first);
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

/// Whether the connection stays (RFC 9112 section 9.3).
fn keep_alive(fields: &Fields, version: Version) -> Result<bool, Refused> {
    if !fields.has(Known::Connection) {
        return Ok(version == Version::HTTP_11);
    }
    let options = || {
        let values = fields.values(Known::Connection);
        values.flat_map(|value| value.split(|byte| *byte == b','))
    };
    let says = |option: &[u8]| {
        let mut options = options();
        options.any(|one| one.trim_ascii().eq_ignore_ascii_case(option))
    };
    if options().nth(MAX_OPTIONS).is_some() {
        return Err(Refused::TooLarge);
    }
    let stays = version == Version::HTTP_11 || says(b"keep-alive");
    Ok(stays && !says(b"close"))
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
    Ok(fields(bytes, &bytes[..length], headers))
}

#[cfg(test)]
mod tests;
