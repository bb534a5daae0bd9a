//! HTTP/1.1's fields on a hop of HTTP/2: their case and order travel beside them and are put back (`proxy/HOP.md`, `outrigger-case`).

use std::cell::RefCell;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Version, request, response};

use super::{CASE, REASON, Try, UPGRADE};
use crate::error::ProxyError;
use crate::message::fields::{Fields, Known, Span};
use crate::message::head::{RequestHead, ResponseHead, one_length};

/// The longest list that is sent, and the longest that is worth a place in the peer's table, in bytes.
const MAX_LIST: usize = 8 * 1024;
const MAX_INDEXED: usize = 1024;
/// Lists a thread keeps: as many as it has kinds of clients and of applications.
const KEPT: usize = 16;
/// The one coding there is, as most spell it.
const CHUNKED: &[u8] = b"chunked";
/// Names one list may have: HTTP/1.1's heads have no more fields.
const MAX_NAMES: usize = 128;
/// Fields a message that says how it was spelt may have; in one with more it is not looked at, as it takes a look at each for each.
const MAX_FIELDS: usize = 2 * MAX_NAMES;
/// More values than these share one copy of the head's text, if that is no longer: what one of them is kept for in HPACK's table
/// keeps all of it.
const FEW: usize = 3;
const MAX_SHARED: usize = 2 * 1024;
/// A head of HTTP/1.1 with more text goes by HTTP/1.1.
const MAX_TEXT: usize = 8 * 1024;

#[derive(Default)]
struct Lists {
    scratch: Vec<u8>,
    kept: Vec<HeaderValue>,
    next: usize,
}

thread_local! {
    static LISTS: RefCell<Lists> = RefCell::default();
}

impl Lists {
    /// What was written into the scratch, made once for all messages alike.
    fn value(&mut self) -> Option<HeaderValue> {
        let list = &self.scratch;
        if list.len() > MAX_LIST {
            return None;
        }
        if let Some(known) = self.kept.iter().find(|known| known.as_bytes() == &list[..]) {
            return Some(known.clone());
        }
        let mut value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(list)).ok()?;
        if list.len() > MAX_INDEXED {
            value.set_sensitive(true);
            return Some(value);
        }
        if self.kept.len() < KEPT {
            self.kept.push(value.clone());
        } else {
            self.kept[self.next % KEPT] = value.clone();
            self.next += 1;
        }
        Some(value)
    }
}

/// Fields that came by HTTP/1.1, as HTTP/2 carries them, and how they were spelt. `host` is `:authority` elsewhere, and not among them.
fn to_map(fields: &Fields, host: bool) -> HeaderMap {
    let count = fields.iter().count();
    let mut map = HeaderMap::with_capacity(count + 2);
    let text = fields.text();
    let shared = (fields.is_text() && count > FEW && text.len() <= MAX_SHARED)
        .then(|| Bytes::copy_from_slice(text));
    LISTS.with_borrow_mut(|lists| {
        lists.scratch.clear();
        for (known, name, value) in fields.iter() {
            let of_connection = matches!(
                known,
                Known::Connection | Known::KeepAlive | Known::ProxyConnection
            );
            if of_connection {
                continue;
            }
            if known != Known::Hop {
                if !lists.scratch.is_empty() {
                    lists.scratch.push(b',');
                }
                lists.scratch.extend_from_slice(name);
            }
            if known == Known::TransferEncoding && value != CHUNKED {
                lists.scratch.push(b'=');
                lists.scratch.extend_from_slice(value);
            }
            let name = match known {
                Known::TransferEncoding => continue,
                Known::Host if host => continue,
                Known::Upgrade => Ok(UPGRADE),
                _ => HeaderName::from_bytes(name),
            };
            let value = match &shared {
                Some(shared) => {
                    let start = value.as_ptr() as usize - text.as_ptr() as usize;
                    HeaderValue::from_maybe_shared(shared.slice(start..start + value.len()))
                }
                None => HeaderValue::from_bytes(value),
            };
            if let (Ok(name), Ok(value)) = (name, value) {
                map.append(name, value);
            }
        }
        if let Some(list) = lists.value() {
            map.insert(CASE, list);
        }
    });
    map
}

/// The fields as they were before, where the peer said how they were spelt. `host` is a request's `:authority`.
///
/// What HTTP/2 does not carry is made from the list alone, once and only where it agrees with the message: whoever speaks the hop may
/// choose how the fields are spelt, not how the body is framed (RFC 9112 section 6.3).
fn from_map(mut map: HeaderMap, host: Option<&[u8]>) -> Fields {
    let list = map.remove(CASE);
    let list = list.as_ref().and_then(|list| list.to_str().ok());
    let text: usize = map
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let may_chunk = !map.contains_key(header::CONTENT_LENGTH);
    let mut fields = Fields::with_capacity(text + 256, map.len() + 4);
    let mut found = 0;
    for name in list.unwrap_or_default().split(',').take(MAX_NAMES) {
        let (name, coding) = name.split_once('=').unwrap_or((name, "chunked"));
        let known = Known::of(name.as_bytes());
        let before = fields.named(name.as_bytes()).count();
        let value = match (known, host) {
            (Known::Hop, _) => continue,
            (Known::Host, Some(host)) => {
                if before == 0 {
                    fields.push(name, host);
                }
                continue;
            }
            (Known::TransferEncoding, _) => {
                if may_chunk && before == 0 && coding.as_bytes().eq_ignore_ascii_case(CHUNKED) {
                    fields.push(name, coding.as_bytes());
                }
                continue;
            }
            (Known::Upgrade, _) => nth(&map, UPGRADE.as_str(), before),
            _ => nth(&map, name, before),
        };
        if let Some(value) = value {
            found += 1;
            fields.push(name, value);
        }
    }
    if let Some(host) = host.filter(|_| !fields.has(Known::Host)) {
        // The target alone said it.
        fields.push("host", host);
    }
    if found < map.len() {
        add_rest(&map, &mut fields);
    }
    fields
}

fn nth<'a>(map: &'a HeaderMap, name: &str, place: usize) -> Option<&'a [u8]> {
    let mut values = map.get_all(name).iter();
    values.nth(place).map(HeaderValue::as_bytes)
}

/// Fields that the list does not name.
fn add_rest(map: &HeaderMap, fields: &mut Fields) {
    for name in map.keys().filter(|name| **name != UPGRADE) {
        let before = fields.named(name.as_str().as_bytes()).count();
        for value in map.get_all(name).iter().skip(before) {
            fields.push(name.as_str(), value.as_bytes());
        }
    }
}

/// Whether a request that came by HTTP/1.x can cross a hop by HTTP/2 and be the same behind it. One by HTTP/2 always can.
pub(crate) fn travels(head: &RequestHead) -> bool {
    if head.version == Version::HTTP_2 {
        return true;
    }
    let target = head.target();
    let form = match target.first() {
        Some(b'/') => true,
        _ => target == b"*" && head.method == Method::OPTIONS,
    };
    let authority = head.authority();
    form && head.fields.text().len() <= MAX_TEXT
        && target.iter().copied().all(is_plain_in_target)
        && is_plain_authority(authority)
}

/// What http (1.5) takes in a path and in a query alike.
const fn is_plain_in_target(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'~')
}

fn is_plain_authority(authority: &[u8]) -> bool {
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']')
    };
    !authority.is_empty() && authority.iter().all(plain) && authority.last() != Some(&b':')
}

/// A request for a hop by HTTP/2.
pub(crate) fn h2_request(
    head: &mut RequestHead,
    told: Option<&HeaderValue>,
) -> Result<Request<()>, ProxyError> {
    let mut request = if head.version == Version::HTTP_2 {
        head.h2_request(())?
    } else {
        let map = to_map(&head.fields, true);
        head.h2_request_with(map, ())?
    };
    if let Some(told) = told {
        request.headers_mut().insert(Try::FIELD, told.clone());
    }
    Ok(request)
}

/// A request that came by a hop of HTTP/2, as its client wrote it.
pub(crate) fn from_h2_request(mut parts: request::Parts) -> (RequestHead, Try) {
    let told = Try::of(parts.headers.remove(Try::FIELD).as_ref());
    if !is_spelt(&parts.headers) {
        return (RequestHead::from_h2(parts), told);
    }
    one_length(&mut parts.headers);
    let headers = std::mem::take(&mut parts.headers);
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let mut fields = from_map(headers, authority.map(str::as_bytes));
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let target = fields.store(target.as_bytes());
    let (method, version) = (parts.method, Version::HTTP_11);
    let head = RequestHead::new(method, version, Span::EMPTY, target, fields);
    (head, told)
}

/// A response for a hop by HTTP/2.
pub(crate) fn h2_response(head: &mut ResponseHead) -> Response<()> {
    if !head.fields.is_text() {
        return head.h2_response(());
    }
    let mut map = to_map(&head.fields, false);
    if let Some(reason) = head.own_reason() {
        let quoted = [b"\"", reason, b"\""].concat();
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(quoted)) {
            map.insert(REASON, value);
        }
    }
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = map;
    response
}

/// A response that came by a hop of HTTP/2, as it was written.
pub(crate) fn from_h2_response(mut parts: response::Parts) -> Result<ResponseHead, ProxyError> {
    let reason = parts.headers.remove(REASON);
    let spelt = is_spelt(&parts.headers);
    let mut head = ResponseHead::from_h2(parts)?;
    if spelt && let Some(map) = head.fields.take_only_map() {
        head.fields = from_map(map, None);
    }
    let quoted = reason.as_ref().map(HeaderValue::as_bytes);
    let reason = quoted.and_then(|text| text.strip_prefix(b"\"")?.strip_suffix(b"\""));
    if let Some(reason) = reason {
        head.set_reason(reason);
    }
    Ok(head)
}

/// Trailers for a hop by HTTP/2.
pub(crate) fn h2_trailers(fields: &mut Fields) -> HeaderMap {
    if fields.is_text() {
        to_map(fields, false)
    } else {
        fields.take_map()
    }
}

/// Trailers that came by a hop of HTTP/2.
pub(crate) fn from_h2_trailers(map: HeaderMap) -> Fields {
    if !is_spelt(&map) {
        return Fields::of_map(map);
    }
    let mut fields = from_map(map, None);
    fields.remove_known(Known::TransferEncoding);
    fields
}

/// Whether a message on a hop of HTTP/2 came by HTTP/1.1.
pub(crate) fn is_spelt(headers: &HeaderMap) -> bool {
    headers.contains_key(CASE) && headers.len() <= MAX_FIELDS
}

#[cfg(test)]
mod tests;
