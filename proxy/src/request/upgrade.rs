//! Upgrades (RFC 9110 section 7.8) and extended CONNECT (RFC 8441), each made of the other where client and task differ.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use h2::ext::Protocol;
use http::{Method, StatusCode, Version};
use sha1::{Digest, Sha1};

use super::headers;
use crate::error::{Kind, ProxyError};
use crate::message::fields::{Fields, Known};
use crate::message::head::{RequestHead, ResponseHead};

const WEBSOCKET: &[u8] = b"websocket";
const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";
/// What a server adds to the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request asks its connection or stream to become.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    Nothing,
    /// By HTTP/1.1's Upgrade. Only a WebSocket can be asked for by HTTP/2 as well; then this is the answer to its key.
    Field(Option<String>),
    /// By extended CONNECT.
    Connect,
}

impl Upgrade {
    /// `whole` says whether the head is the whole request. A plain CONNECT is refused.
    pub(crate) fn asked(head: &RequestHead, whole: bool) -> Result<Self, ProxyError> {
        if let Some(protocol) = &head.protocol {
            // It may become an Upgrade field, which could not carry anything but tokens.
            if !headers::may_become(protocol.as_str().as_bytes()) {
                let wrong = ":protocol is one that is not tunnelled";
                return Err(ProxyError::caused(Kind::DownstreamProtocol, wrong));
            }
            return Ok(Self::Connect);
        }
        if head.method == Method::CONNECT {
            return Err(Kind::MethodRefused.into());
        }
        if !headers::wants_upgrade(head) {
            return Ok(Self::Nothing);
        }
        let fields = &head.fields;
        let mut protocols = fields.values(Known::Upgrade);
        let mut keys = fields.named(KEY.as_bytes());
        Ok(Self::Field(
            match (protocols.next(), protocols.next(), keys.next(), keys.next()) {
                (Some(protocol), None, Some(key), None)
                    if whole
                        && head.method == Method::GET
                        && protocol.eq_ignore_ascii_case(WEBSOCKET) =>
                {
                    Some(accept(key))
                }
                _ => None,
            },
        ))
    }

    pub(crate) fn is_asked(&self) -> bool {
        *self != Self::Nothing
    }

    /// Whether HTTP/2 has words for it; then the task is still to say that it knows them.
    pub(crate) fn fits_http2(&self) -> bool {
        *self != Self::Field(None)
    }

    /// Whether an answer, in the words of the client's version, grants it.
    pub(crate) fn is_granted(&self, status: StatusCode) -> bool {
        match self {
            Self::Nothing => false,
            Self::Field(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            Self::Connect => status.is_success(),
        }
    }

    /// Whether an answer keeps its Upgrade field though it grants nothing: a 426 must say what is wanted (RFC 9110 section
    /// 15.5.22), and the client could ask for it here.
    pub(crate) fn may_be_named(client: Version, status: StatusCode) -> bool {
        client == Version::HTTP_11 && status == StatusCode::UPGRADE_REQUIRED
    }

    /// The request in the words of the other version, where the task speaks that.
    pub(crate) fn translate(&self, head: &RequestHead, http2: bool) -> Option<Box<Handshake>> {
        match self {
            Self::Field(Some(accept)) if http2 => Some(Handshake::connect(head, accept)),
            Self::Connect if !http2 => Some(Handshake::upgrade(head)),
            _ => None,
        }
    }
}

/// A request made from another, and what its answer must say.
pub(crate) struct Handshake {
    pub(crate) head: RequestHead,
    /// The answer to the WebSocket key: ours to check, or the client's to have.
    accept: Option<String>,
}

impl Handshake {
    /// As extended CONNECT, which goes without the key (RFC 8441 section 5).
    fn connect(head: &RequestHead, accept: &str) -> Box<Self> {
        let mut head = head.clone();
        head.method = Method::CONNECT;
        head.protocol = Some(Protocol::from_static("websocket"));
        remove_handshake(&mut head.fields);
        let accept = Some(accept.to_owned());
        Box::new(Self { head, accept })
    }

    /// As HTTP/1.1's Upgrade, with a key of our own where it is for a WebSocket (RFC 6455 section 4.1).
    fn upgrade(head: &RequestHead) -> Box<Self> {
        let mut head = head.clone();
        head.method = Method::GET;
        remove_handshake(&mut head.fields);
        head.fields.remove_known(Known::ContentLength);
        let protocol = head.protocol.take();
        let protocol = protocol.as_ref().map_or("", Protocol::as_str);
        head.fields.push("connection", b"upgrade");
        head.fields.push("upgrade", protocol.as_bytes());
        let mut expected = None;
        if protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET) {
            let key = BASE64.encode(rand::random::<[u8; 16]>());
            head.fields.push(KEY, key.as_bytes());
            expected = Some(accept(key.as_bytes()));
        }
        let accept = expected;
        Box::new(Self { head, accept })
    }

    /// Puts the task's answer into the client's words.
    pub(crate) fn conclude(&self, answer: &mut ResponseHead) -> Result<(), ProxyError> {
        let (asked_by_http2, status) = (self.head.protocol.is_some(), answer.status);
        if asked_by_http2 {
            if status.is_success() {
                answer.status = StatusCode::SWITCHING_PROTOCOLS;
                remove_handshake(&mut answer.fields);
                let accept = self.accept.as_deref().unwrap_or_default();
                answer.fields.push("upgrade", WEBSOCKET);
                answer.fields.push(ACCEPT, accept.as_bytes());
            }
            return Ok(());
        }
        if status == StatusCode::SWITCHING_PROTOCOLS && self.is_kept_by(&answer.fields) {
            answer.status = StatusCode::OK;
            remove_handshake(&mut answer.fields);
            Ok(())
        } else if status == StatusCode::SWITCHING_PROTOCOLS || status.is_success() {
            // A 200 without the upgrade would be one with it to a client of HTTP/2.
            let wrong = "the task does not do the upgrade as it was asked";
            Err(ProxyError::caused(Kind::UpgradeFailed, wrong))
        } else {
            Ok(())
        }
    }

    /// Whether a 101 is to what was asked, and for a WebSocket knows the key (RFC 6455 section 4.1).
    fn is_kept_by(&self, fields: &Fields) -> bool {
        let asked = self.head.fields.value(Known::Upgrade).unwrap_or_default();
        let same = |value: &[u8]| value.eq_ignore_ascii_case(asked);
        let mut accepts = fields.named(ACCEPT.as_bytes());
        let expected = self.accept.as_deref().map(str::as_bytes);
        fields.value(Known::Upgrade).is_some_and(same)
            && (expected.is_none() || (accepts.next() == expected && accepts.next().is_none()))
    }
}

/// Takes out the fields that are of one version's handshake alone.
fn remove_handshake(fields: &mut Fields) {
    fields.remove(|known, name| match known {
        Known::Connection | Known::Upgrade => true,
        _ => {
            name.eq_ignore_ascii_case(KEY.as_bytes())
                || name.eq_ignore_ascii_case(ACCEPT.as_bytes())
        }
    });
}

/// The answer to a WebSocket key (RFC 6455 section 4.2.2).
fn accept(key: &[u8]) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    BASE64.encode(digest)
}

#[cfg(test)]
mod tests;
