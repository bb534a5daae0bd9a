//! Header and trailer fields in the order and spelling in which they came (RFC 9110 section 5).
//!
//! One text and one list of spans into it: a head is copied once when it is read and once when it is written, whatever the number
//! of its fields. `http::HeaderMap` would regroup repeated fields and lose their case.

use std::fmt;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, header};

/// Fields that the sidecar itself looks at; the others are only passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Known {
    Other,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Expect,
    /// Who called, for the application (`x-forwarded-client-cert`), in every spelling that one may take for it.
    ForwardedClientCert,
    GrpcTimeout,
    /// What two sidecars say to each other: the prefix `outrigger-` is theirs (`proxy/HOP.md`).
    Hop,
    Host,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
}

impl Known {
    const NAMES: [(&'static str, Self); 13] = [
        ("te", Self::Te),
        ("host", Self::Host),
        ("cookie", Self::Cookie),
        ("expect", Self::Expect),
        ("trailer", Self::Trailer),
        ("upgrade", Self::Upgrade),
        ("connection", Self::Connection),
        ("keep-alive", Self::KeepAlive),
        ("content-type", Self::ContentType),
        ("grpc-timeout", Self::GrpcTimeout),
        ("content-length", Self::ContentLength),
        ("proxy-connection", Self::ProxyConnection),
        ("transfer-encoding", Self::TransferEncoding),
    ];

    pub(crate) fn of(name: &[u8]) -> Self {
        const HOP: &[u8] = b"outrigger-";
        if let [b'o' | b'O', ..] = name
            && name.len() > HOP.len()
            && eq(&name[..HOP.len()], HOP)
        {
            return Self::Hop;
        }
        if name.len() == FORWARDED_CLIENT_CERT.len() && is_forwarded_client_cert(name) {
            return Self::ForwardedClientCert;
        }
        // Lengths at which there is a known name; most others are told apart by nothing more.
        const LENGTHS: u32 =
            1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 16 | 1 << 17;
        if name.len() > 17 || LENGTHS & (1 << name.len()) == 0 {
            return Self::Other;
        }
        Self::NAMES
            .iter()
            .find(|(known, _)| known.len() == name.len() && eq(known.as_bytes(), name))
            .map_or(Self::Other, |(_, known)| *known)
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

pub(crate) const FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";

/// CGI and what is made after it (RFC 3875 section 4.1.18) know a field by its name in capitals with an underscore for each dash, and
/// some of them for anything else that is no letter: `X_Forwarded_Client_Cert` would arrive as ours.
fn is_forwarded_client_cert(name: &[u8]) -> bool {
    let ours = FORWARDED_CLIENT_CERT.as_bytes();
    name.iter().zip(ours).all(|(byte, our)| match our {
        b'-' => !byte.is_ascii_alphanumeric(),
        our => byte.eq_ignore_ascii_case(our),
    })
}

fn eq(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// A piece of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) const EMPTY: Self = Self { start: 0, end: 0 };

    pub(crate) fn new(start: usize, length: usize) -> Self {
        Self {
            start: start as u32,
            end: (start + length) as u32,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Line {
    name: Span,
    value: Span,
    known: Known,
}

/// Fields in order. Names compare without case (RFC 9110 section 5.1).
#[derive(Clone, Default)]
pub(crate) struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// One bit for each known field that is among the lines.
    present: u16,
    /// The same as it came by HTTP/2, until something is changed: a message that leaves by HTTP/2 again needs no new map.
    map: Option<HeaderMap>,
    /// The map is all there is: text and lines are made when somebody changes something.
    only_map: bool,
}

impl Fields {
    /// Fields that will be pushed as spans of `text`, which may hold more than fields.
    pub(crate) fn over(text: &[u8], count: usize) -> Self {
        // Room for a line or two of our own.
        let mut owned = Vec::with_capacity(text.len() + 64);
        owned.extend_from_slice(text);
        Self {
            text: owned,
            lines: Vec::with_capacity(count + 2),
            present: 0,
            map: None,
            only_map: false,
        }
    }

    /// Fields with room for so many bytes of text and so many lines.
    pub(crate) fn with_capacity(text: usize, lines: usize) -> Self {
        Self {
            text: Vec::with_capacity(text),
            lines: Vec::with_capacity(lines),
            ..Self::default()
        }
    }

    /// The text that names and values lie in.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether they are as they came by HTTP/1.1, or were written here.
    pub(crate) fn is_text(&self) -> bool {
        !self.only_map && self.map.is_none()
    }

    /// The map, where it is all there is.
    pub(crate) fn take_only_map(&mut self) -> Option<HeaderMap> {
        self.map.take_if(|_| self.only_map)
    }

    /// The bytes of a span.
    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        &self.text[span.start as usize..span.end as usize]
    }

    /// Adds text that spans may point into. Fields are written as lines: what would end one becomes a space (RFC 9110 section
    /// 5.5). All text comes by here, or is of a head that was read.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> Span {
        self.settle();
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        for byte in &mut self.text[start..] {
            // Written in any case, so that many are done at once.
            *byte = if matches!(*byte, b'\r' | b'\n' | 0) {
                b' '
            } else {
                *byte
            };
        }
        Span::new(start, bytes.len())
    }

    /// Adds the field whose name and value are in the text already.
    pub(crate) fn push_spans(&mut self, name: Span, value: Span) {
        let known = Known::of(self.bytes(name));
        self.present |= known.bit();
        self.lines.push(Line { name, value, known });
        self.map = None;
    }

    /// Adds a field at the end.
    pub(crate) fn push(&mut self, name: &str, value: &[u8]) {
        let (name, value) = (self.store(name.as_bytes()), self.store(value));
        self.push_spans(name, value);
    }

    /// Adds a field at the end whose value is shared by many messages: what came by HTTP/2 need not be made anew for it.
    pub(crate) fn push_shared(&mut self, name: &'static str, value: &HeaderValue) {
        self.settle();
        let map = self.map.take();
        self.push(name, value.as_bytes());
        self.map = map.map(|mut map| {
            map.append(HeaderName::from_static(name), value.clone());
            map
        });
    }

    /// Whether a known field is there.
    pub(crate) fn has(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// Whether any of the known fields in `mask` is there.
    pub(crate) fn has_any(&self, of: &[Known]) -> bool {
        of.iter().any(|known| self.has(*known))
    }

    /// The values of a known field, in order.
    pub(crate) fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let lines = if self.has(known) {
            &self.lines[..]
        } else {
            &[]
        };
        let in_map = self.mapped().filter(move |one| one.0 == known);
        lines
            .iter()
            .filter(move |line| line.known == known)
            .map(|line| self.bytes(line.value))
            .chain(in_map.map(|(_, _, value)| value))
    }

    /// The first value of a known field.
    pub(crate) fn value(&self, known: Known) -> Option<&[u8]> {
        self.values(known).next()
    }

    /// The values of any field, in order.
    pub(crate) fn named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |one| eq(one.1, name))
            .map(|(_, _, value)| value)
    }

    /// Names and values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.lines
            .iter()
            .map(|line| (line.known, self.bytes(line.name), self.bytes(line.value)))
            .chain(self.mapped())
    }

    /// The same where the map is all there is.
    fn mapped(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        let map = self.map.as_ref().filter(|_| self.only_map);
        map.into_iter().flatten().map(|(name, value)| {
            let name = name.as_str().as_bytes();
            (Known::of(name), name, value.as_bytes())
        })
    }

    /// Makes text and lines of a map, for a change.
    fn settle(&mut self) {
        if self.only_map {
            *self = Self::from_map(self.map.take().unwrap_or_default());
        }
    }

    /// Takes out every field that `gone` says.
    pub(crate) fn remove(&mut self, gone: impl Fn(Known, &[u8]) -> bool) {
        self.settle();
        self.map = None;
        let text = &self.text;
        self.lines.retain(|line| {
            let name = &text[line.name.start as usize..line.name.end as usize];
            !gone(line.known, name)
        });
        self.present = self
            .lines
            .iter()
            .fold(0, |bits, line| bits | line.known.bit());
    }

    /// Takes out a known field, if it is there.
    pub(crate) fn remove_known(&mut self, gone: Known) {
        if self.has(gone) {
            self.remove(|known, _| known == gone);
        }
    }

    /// Sets the one field of that name: in its first place if it has one, else at the end.
    pub(crate) fn set(&mut self, known: Known, name: &str, value: &[u8]) {
        self.settle();
        let Some(place) = self.lines.iter().position(|line| line.known == known) else {
            return self.push(name, value);
        };
        let value = self.store(value);
        self.lines[place].value = value;
        self.map = None;
        let mut at = 0;
        self.lines.retain(|line| {
            let kept = line.known != known || at == place;
            at += 1;
            kept
        });
    }

    /// The same fields as HTTP/2 has them: lower-case, without order among different names. A name or value that cannot be one is
    /// left out. Made without work once, if they came so.
    pub(crate) fn take_map(&mut self) -> HeaderMap {
        if let Some(map) = self.map.take() {
            return map;
        }
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for (_, name, value) in self.iter() {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                map.append(name, value);
            }
        }
        map
    }

    /// The fields of an HTTP/2 message that is most likely to leave by HTTP/2: nothing is made of the map before it must be.
    pub(crate) fn of_map(map: HeaderMap) -> Self {
        let known = |name: &HeaderName| Known::of(name.as_str().as_bytes()).bit();
        Self {
            present: map.keys().fold(0, |bits, name| bits | known(name)),
            map: Some(map),
            only_map: true,
            ..Self::default()
        }
    }

    /// The fields of an HTTP/2 request. Cookie crumbs are joined (RFC 9113 section 8.2.3).
    pub(crate) fn from_map(map: HeaderMap) -> Self {
        let size: usize = map
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let mut fields = Self {
            text: Vec::with_capacity(size + 128),
            lines: Vec::with_capacity(map.len() + 2),
            present: 0,
            map: None,
            only_map: false,
        };
        for (name, value) in &map {
            if name != header::COOKIE {
                fields.push(name.as_str(), value.as_bytes());
            }
        }
        let mut crumbs = map.get_all(header::COOKIE).iter().peekable();
        if crumbs.peek().is_some() {
            let crumbs: Vec<_> = crumbs.map(HeaderValue::as_bytes).collect();
            fields.push("cookie", &crumbs.join(&b"; "[..]));
        }
        fields.map = Some(map);
        fields
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(_, name, value)| (text(name), text(value))),
            )
            .finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.push(name, value.as_bytes());
        }
        fields
    }

    fn pairs(fields: &Fields) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields
            .iter()
            .map(|(_, name, value)| (text(name), text(value)))
            .collect()
    }

    #[test]
    fn every_known_name_is_known_in_any_case() {
        for (name, known) in Known::NAMES {
            assert_eq!(Known::of(name.as_bytes()), known);
            assert_eq!(Known::of(name.to_uppercase().as_bytes()), known);
        }
        assert_eq!(Known::of(b"x-request-id"), Known::Other);
        assert_eq!(Known::of(b"Hosts"), Known::Other);
        for name in ["outrigger-try", "Outrigger-Verdict", "OUTRIGGER-X"] {
            assert_eq!(Known::of(name.as_bytes()), Known::Hop);
        }
        for name in [
            FORWARDED_CLIENT_CERT,
            "X-Forwarded-Client-Cert",
            "X_FORWARDED_CLIENT_CERT",
            "x-forwarded_client.cert",
        ] {
            assert_eq!(Known::of(name.as_bytes()), Known::ForwardedClientCert);
        }
        for name in ["x-forwarded-client-certs", "x-forwarded-clientscert"] {
            assert_eq!(Known::of(name.as_bytes()), Known::Other);
        }
        assert_eq!(Known::of(b"outrigger-"), Known::Other);
        assert_eq!(Known::of(b"x-outrigger-try"), Known::Other);
    }

    #[test]
    fn order_case_and_repetition_are_kept() {
        let given = [("X-B", "1"), ("Accept", "a"), ("x-b", "2"), ("ACCEPT", "b")];
        let fields = fields(&given);
        let kept = pairs(&fields);
        let kept: Vec<_> = kept.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(kept, given);
        assert_eq!(fields.named(b"accept").collect::<Vec<_>>(), [b"a", b"b"]);
    }

    #[test]
    fn setting_a_field_keeps_its_place_and_drops_its_repetitions() {
        let mut fields = fields(&[("Host", "a"), ("X", "1"), ("host", "b")]);
        fields.set(Known::Host, "host", b"c");
        assert_eq!(
            pairs(&fields),
            [("Host".into(), "c".into()), ("X".into(), "1".into())] as [(String, String); 2]
        );
        fields.set(Known::Te, "te", b"trailers");
        assert_eq!(fields.value(Known::Te), Some(&b"trailers"[..]));
    }

    #[test]
    fn nothing_that_ends_a_line_gets_into_the_text() {
        let mut fields = fields(&[("x", "a\r\nHost: b\0"), ("y\r\nz", "1")]);
        assert_eq!(fields.named(b"x").next(), Some(&b"a  Host: b "[..]));
        fields.set(Known::Host, "host", b"a\rb\nc");
        assert_eq!(fields.value(Known::Host), Some(&b"a b c"[..]));
        assert_eq!(pairs(&fields)[1].0, "y  z");
    }

    #[test]
    fn what_was_removed_is_not_known_any_more() {
        let mut fields = fields(&[("Upgrade", "x"), ("A", "1"), ("upgrade", "y")]);
        fields.remove(|known, _| known == Known::Upgrade);
        assert!(!fields.has(Known::Upgrade));
        assert_eq!(pairs(&fields), [("A".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn a_map_alone_is_read_and_changed_like_text() {
        let mut map = HeaderMap::new();
        map.append("te", HeaderValue::from_static("trailers"));
        map.append("a", HeaderValue::from_static("1"));
        map.append("a", HeaderValue::from_static("2"));
        let mut fields = Fields::of_map(map.clone());
        assert!(fields.has(Known::Te) && !fields.has(Known::Host));
        assert_eq!(fields.value(Known::Te), Some(&b"trailers"[..]));
        assert_eq!(fields.named(b"A").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(fields.clone().take_map(), map);
        fields.push("b", b"3");
        fields.remove_known(Known::Te);
        let left = [("a", "1"), ("a", "2"), ("b", "3")];
        assert_eq!(
            pairs(&fields),
            left.map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
        assert_eq!(fields.take_map().len(), 3);
    }

    #[test]
    fn a_map_is_made_anew_after_a_change() {
        let mut map = HeaderMap::new();
        map.append("a", HeaderValue::from_static("1"));
        for change in [
            |fields: &mut Fields| fields.push("b", b"2"),
            |fields: &mut Fields| fields.remove(|_, name| name == b"a"),
            |fields: &mut Fields| fields.set(Known::Te, "te", b"trailers"),
        ] {
            let mut fields = Fields::from_map(map.clone());
            change(&mut fields);
            assert_ne!(fields.take_map(), map);
        }
        let mut kept = Fields::from_map(map.clone());
        assert_eq!(kept.take_map(), map);
        assert_eq!(kept.take_map(), map, "made again from the text");
    }

    #[test]
    fn a_shared_value_is_added_to_what_came_by_http2() {
        let value = HeaderValue::from_static("v");
        let mut map = HeaderMap::new();
        map.append("a", HeaderValue::from_static("1"));
        for of in [Fields::from_map, Fields::of_map] {
            let mut fields = of(map.clone());
            fields.push_shared(FORWARDED_CLIENT_CERT, &value);
            assert_eq!(fields.value(Known::ForwardedClientCert), Some(&b"v"[..]));
            let made = fields.take_map();
            assert_eq!((made.len(), &made[FORWARDED_CLIENT_CERT]), (2, &value));
        }
        let mut kept = Fields::from_map(map);
        kept.push_shared(FORWARDED_CLIENT_CERT, &value);
        assert!(kept.map.is_some(), "nothing is made anew");
        kept.remove_known(Known::ForwardedClientCert);
        assert_eq!(kept.take_map().len(), 1);
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        let mut map = HeaderMap::new();
        map.append("cookie", HeaderValue::from_static("a=1"));
        map.append("cookie", HeaderValue::from_static("b=2"));
        let fields = Fields::from_map(map);
        assert_eq!(fields.value(Known::Cookie), Some(&b"a=1; b=2"[..]));
    }
}
