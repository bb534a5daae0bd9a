//! The parts that read what strangers send, handed out one by one to the fuzz targets; nothing here runs in a sidecar.

mod connection;

use std::sync::Arc;

use bytes::BytesMut;
use http::Method;
use outrigger_xds::model::{self, HeaderMatch, PathMatch, RetryPolicy};

pub use self::connection::{Forwarded, Message, Polled, Replaying, forwarded, forwarded_from_h2};
use crate::downstream::protocol;
use crate::http1::body::{Decoded, Decoder, Framing};
use crate::http1::head;
use crate::message::Part;
use crate::message::fields::Fields;
use crate::message::head::{RequestHead, ResponseHead};
use crate::observe::metrics::{Metrics, Owner};
use crate::routing::route::{self, Route};
use crate::upstream::cluster::Cluster;

/// A field's name and value.
pub type Field = (Vec<u8>, Vec<u8>);

/// More than any head or target in a fuzz run, in bytes.
const LIMIT: usize = 64 * 1024;

/// What the first bytes of a connection say it speaks; `None` while more are needed.
pub fn recognise(bytes: &[u8]) -> Option<String> {
    protocol::recognise(bytes).map(|speaks| format!("{speaks:?}"))
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many bytes; 0 where there is no body.
    Bytes(u64),
    /// Chunked coding.
    Chunked,
    /// The connection's end is the body's.
    UntilClose,
}

impl From<Framing> for Length {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Bytes(length),
            Framing::Chunked => Self::Chunked,
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

impl From<Length> for Framing {
    fn from(length: Length) -> Self {
        match length {
            Length::Bytes(length) => Self::Length(length),
            Length::Chunked => Self::Chunked,
            Length::UntilClose => Self::UntilClose,
        }
    }
}

fn pairs(fields: &Fields) -> Vec<Field> {
    let pair = |(_, name, value): (_, &[u8], &[u8])| (name.to_vec(), value.to_vec());
    fields.iter().map(pair).collect()
}

/// A request's head as it was read.
#[derive(Debug)]
pub struct Request {
    head: RequestHead,
    /// How long its body is.
    pub body: Length,
    /// Bytes the head took.
    pub length: usize,
}

/// A response's head as it was read.
#[derive(Debug)]
pub struct Response {
    head: ResponseHead,
    /// How long its body is.
    pub body: Length,
    /// Bytes the head took.
    pub length: usize,
}

/// Reads a request's head; `None` while it is incomplete, the reason when it is refused.
pub fn request(bytes: &[u8]) -> Result<Option<Request>, String> {
    let read = head::request(bytes, LIMIT).map_err(|refused| refused.to_string())?;
    Ok(read.map(|parsed| Request {
        head: parsed.head,
        body: parsed.framing.into(),
        length: parsed.length,
    }))
}

/// Reads the head of a response to a request of that method.
pub fn response(bytes: &[u8], method: &Method) -> Result<Option<Response>, String> {
    let read = head::response(bytes, method).map_err(|refused| refused.to_string())?;
    Ok(read.map(|parsed| Response {
        head: parsed.head,
        body: parsed.framing.into(),
        length: parsed.length,
    }))
}

impl Request {
    /// The method.
    pub fn method(&self) -> &str {
        self.head.method.as_str()
    }

    /// Path and query, or `*`, or CONNECT's authority.
    pub fn target(&self) -> &[u8] {
        self.head.target()
    }

    /// Host and port it is for.
    pub fn authority(&self) -> &[u8] {
        self.head.authority()
    }

    /// Its fields in order.
    pub fn fields(&self) -> Vec<Field> {
        pairs(&self.head.fields)
    }

    /// The head as it goes to the next hop, with the Host that this one has to say.
    pub fn write(&mut self) -> Vec<u8> {
        self.head.ensure_host(|| "task".to_owned());
        let mut wire = Vec::new();
        head::write_request(&self.head, &mut wire);
        wire
    }
}

impl Response {
    /// The status and its reason.
    pub fn status(&self) -> (u16, &[u8]) {
        (self.head.status.as_u16(), self.head.reason())
    }

    /// Its fields in order.
    pub fn fields(&self) -> Vec<Field> {
        pairs(&self.head.fields)
    }

    /// The head as it goes to the next hop.
    pub fn write(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        head::write_response(&self.head, &mut wire);
        wire
    }
}

/// A body that was read piece by piece.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// All data.
    pub data: Vec<u8>,
    /// Trailers, if it has ended in some.
    pub trailers: Option<Vec<Field>>,
    /// `None` while it has not ended, then whether it was refused.
    pub end: Option<Result<(), String>>,
    /// What was not read.
    pub left: Vec<u8>,
}

/// Reads a body that comes in these pieces.
pub fn body<'a>(length: Length, pieces: impl IntoIterator<Item = &'a [u8]>) -> Body {
    let mut decoder = Decoder::new(length.into());
    let mut buffer = BytesMut::new();
    let mut body = Body::default();
    // A body that has no bytes at all is looked at, too.
    for piece in std::iter::once(&[][..]).chain(pieces) {
        buffer.extend_from_slice(piece);
        while body.end.is_none() {
            match decoder.decode(&mut buffer) {
                Ok(Decoded::Part(Part::Data(data))) => body.data.extend_from_slice(&data),
                Ok(Decoded::Part(Part::Trailers(fields))) => body.trailers = Some(pairs(&fields)),
                Ok(Decoded::End) => body.end = Some(Ok(())),
                Ok(Decoded::More) => break,
                Err(refused) => body.end = Some(Err(refused.to_string())),
            }
        }
    }
    body.left = buffer.to_vec();
    body
}

/// Routes by host, path and field, of which none, one or several match a request.
pub struct Routes(Vec<Arc<Route>>);

impl Default for Routes {
    fn default() -> Self {
        let route = |hosts: &[&str], path, field: Option<(&str, Option<&str>)>, name: &str| {
            let condition = |(name, value): (&str, Option<&str>)| HeaderMatch {
                name: name.to_owned(),
                value: value.map(str::to_owned),
            };
            let from = model::Route {
                hosts: hosts.iter().map(ToString::to_string).collect(),
                path,
                headers: field.map(condition).into_iter().collect(),
                cluster: name.to_owned(),
                per_request_timeout: None,
                idle_timeout: None,
                retry: RetryPolicy::default(),
            };
            let counts = Metrics::new(1, Owner::default()).local_cluster();
            let cluster =
                Cluster::new(model::Cluster::new(name, model::Protocol::Http), "", counts);
            Arc::new(Route::new(&from, cluster).expect("the conditions are valid"))
        };
        let (exact, prefix) = (
            |path: &str| PathMatch::Exact(path.to_owned()),
            |path: &str| PathMatch::Prefix(path.to_owned()),
        );
        Self(vec![
            route(&["orders"], exact("/a"), None, "exact"),
            route(&["*.shop"], prefix("/a"), None, "suffix"),
            route(&[], prefix("/"), Some(("x-a", Some("b"))), "value"),
            route(&[], prefix("/b"), Some(("x-a", None)), "present"),
            route(&["orders", "[::1]"], prefix("/"), None, "host"),
        ])
    }
}

impl Routes {
    /// The name of the route that a request takes.
    pub fn find(&self, request: &Request) -> Option<&str> {
        let route = route::find(&self.0, &request.head)?;
        Some(&route.cluster.name)
    }
}
