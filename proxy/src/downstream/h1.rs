//! An HTTP/1.1 client's connection (RFC 9112): one request after the other, and nothing but the socket while it idles.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version};

use super::{Caller, leaves};
use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::error::{Kind, ProxyError};
use crate::hop::{Try, VERDICT, verdict};
use crate::http1;
use crate::http1::body::Framing;
use crate::http1::head::{Limits, Parsed, Refused};
use crate::http1::reader::{ReadError, Reader};
use crate::http1::writer::{SendError, Writer};
use crate::message::Body;
use crate::message::fields::Known;
use crate::message::head::{RequestHead, ResponseHead};
use crate::request::body::{Client, Source};
use crate::request::response::ResponseBody;
use crate::request::tunnel::Tunnel;
use crate::request::worker::Worker;
use crate::request::{self, Came};
use crate::routing::snapshot::ListenerPolicy;
use crate::tls::transport::Transport;

/// How long a client that is answered before it has sent everything may go on sending: closing at once would reset the answer
/// away (RFC 9112 section 9.6).
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The same for an idle one: a request that crosses our end on its way meets no reset, and its sender sees that nothing was answered.
const PARTING: Duration = Duration::from_millis(200);

/// Serves the connection to its end. `first` is what detection has read, `deadline` when the first
/// head must be whole.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    caller: Caller,
    listener: &Arc<ListenerPolicy>,
    (stream, first): (Transport, BytesMut),
    deadline: Deadline,
    drain: Drain,
) {
    let (read, write) = stream.into_split();
    let client = Rc::new(Client {
        reader: RefCell::new(Reader::new(read, first, Rc::clone(&worker.buffers))),
        writer: RefCell::new(Writer::new(write, Rc::clone(&worker.buffers))),
    });
    let connection = Rc::new(Connection {
        worker: Rc::clone(worker),
        caller,
        listener: Arc::clone(listener),
        client,
        deadline,
        within_head: Cell::new(true),
        drain: drain.clone(),
    });
    let mut stopped = pin!(drain.reached(Phase::Stopped));
    let mut heard = None;
    loop {
        let wake = poll_fn(|cx| {
            if connection.poll_more(cx).is_ready() {
                return Poll::Ready(Wake::Input);
            }
            // Polled to be woken, and then only when there is something to hear: polling takes a lock all workers share.
            let now = drain.now();
            if heard != Some(now) {
                heard = Some(drain.told());
                let _woken_by_the_next = stopped.as_mut().poll(cx);
            }
            if now == Phase::Stopped {
                // Closed with a request in the socket, the connection would be reset.
                let arrived = connection.client.reader.borrow().has_arrived();
                return Poll::Ready(if arrived { Wake::Input } else { Wake::End });
            }
            connection.deadline.poll_expired(cx).map(|()| Wake::End)
        });
        match wake.await {
            Wake::End => return connection.linger(PARTING).await,
            Wake::Input => {
                // Apart, so that a connection holds a request's story only while there is one.
                let conversation = worker.conversations.put(Rc::clone(&connection).converse());
                match conversation.run(&worker.conversations).await {
                    Next::Idle => {}
                    // Without it the end of a body that ends with the connection would be nobody's word.
                    Next::Close => return connection.client.writer.borrow().say_goodbye(),
                    Next::Linger => return connection.linger(LINGER).await,
                    Next::Tunnel(tunnel) => return Box::pin(connection.tunnel(tunnel)).await,
                }
            }
        }
    }
}

/// What ends a wait for input.
enum Wake {
    Input,
    End,
}

/// What becomes of a connection after its requests so far.
enum Next {
    Idle,
    Close,
    /// Close, but take in what the client still sends.
    Linger,
    Tunnel(Box<Tunnel>),
}

struct Connection {
    worker: Rc<Worker>,
    caller: Caller,
    listener: Arc<ListenerPolicy>,
    client: Rc<Client>,
    /// Header timeout within a head, idle timeout between messages; within a request its own timer runs.
    deadline: Deadline,
    /// It is the header timeout that runs.
    within_head: Cell<bool>,
    drain: Drain,
}

impl Connection {
    /// Ready when a request may have begun. Until then the connection holds no buffer.
    fn poll_more(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut reader = self.client.reader.borrow_mut();
        if reader.has_input() {
            return Poll::Ready(());
        }
        reader.park();
        reader.poll_readable(cx).map(drop)
    }

    /// Answers requests for as long as they are there.
    async fn converse(self: Rc<Self>) -> Next {
        loop {
            let parsed = match self.head().await {
                Some(Ok(parsed)) => parsed,
                Some(Err(ReadError::Refused(refused))) => return self.refuse(refused).await,
                // No request has begun: there is nothing to answer.
                None | Some(Err(_)) if self.client.reader.borrow().is_blank() => {
                    return Next::Close;
                }
                Some(Err(ReadError::Truncated)) => {
                    return self.refuse(Refused::Bad("the head is not complete")).await;
                }
                None => return self.too_late().await,
                Some(Err(_)) => return Next::Close,
            };
            self.within_head.set(false);
            self.deadline.set(None);
            match self.exchange(parsed).await {
                Next::Idle => self.deadline.set_after_now(self.listener.idle_timeout),
                next => return next,
            }
            if !self.client.reader.borrow().has_input() {
                return Next::Idle;
            }
        }
    }

    /// The next head; `None` when it takes too long.
    async fn head(&self) -> Option<Result<Parsed<RequestHead>, ReadError>> {
        let limits = Limits {
            head: self.listener.max_header_bytes as usize,
            target: self.listener.max_uri_bytes as usize,
        };
        poll_fn(|cx| {
            let mut reader = self.client.reader.borrow_mut();
            if let Poll::Ready(read) = reader.poll_request(cx, limits) {
                return Poll::Ready(Some(read));
            }
            if !reader.is_blank() && !self.within_head.replace(true) {
                self.deadline.set_after(self.listener.header_timeout);
            }
            self.deadline.poll_expired(cx).map(|()| None)
        })
        .await
    }

    /// One request and its response.
    async fn exchange(&self, parsed: Parsed<RequestHead>) -> Next {
        let (method, version) = (parsed.head.method.clone(), parsed.head.version);
        let source = Source::H1(Rc::clone(&self.client));
        let inform = |head: &mut ResponseHead| self.client.writer.borrow_mut().inform(head);
        let mut head = parsed.head;
        let told = self.caller.hop.then(|| Try::take(&mut head.fields));
        let came = Came {
            slot: self.caller.slot,
            told,
            peer: self.caller.peer.clone(),
        };
        let story = request::serve(&self.worker, came, head, source, &inform);
        let story = pin!(story);
        let Some(response) = self.unless_gone(story).await else {
            return Next::Close;
        };
        let request::Response { mut head, mut body } = response;
        let whole = self.client.reader.borrow().is_complete();
        // Answered before it was read whole: the rest is taken in, but nothing after it.
        let stays = parsed.keep_alive
            && whole
            && !self.drain.is(leaves(self.listener.direction))
            && !self.caller.is_to_come_by_tls(&self.worker)
            // What follows is not a request to whoever wanted a tunnel (RFC 9110 section 9.3.6).
            && method != Method::CONNECT;
        if let ResponseBody::Local(_) = body {
            self.worker.date.stamp(&mut head);
        }
        let framing = frame(&mut head, &body, &method, version);
        let keep_alive = stays && framing != Framing::UntilClose;
        announce(&mut head, version, keep_alive);
        self.client
            .writer
            .borrow_mut()
            .begin_response(&head, framing);
        drop(head);
        if !self.send(&mut body).await {
            return Next::Close;
        }
        if let ResponseBody::Tunnel(tunnel) = body {
            return Next::Tunnel(tunnel);
        }
        drop(body);
        let reader = self.client.reader.borrow();
        match (reader.is_complete(), keep_alive) {
            (true, true) => Next::Idle,
            // Closing with bytes unread would reset the answer away (RFC 9112 section 9.6).
            (true, false) if !reader.has_input() => Next::Close,
            (_, false) | (false, _) => Next::Linger,
        }
    }

    /// Runs the request's story, unless the client leaves before it has an answer.
    async fn unless_gone(
        &self,
        mut story: Pin<&mut impl Future<Output = request::Response>>,
    ) -> Option<request::Response> {
        poll_fn(|cx| {
            let told = story.as_mut().poll(cx);
            if told.is_ready() {
                return told.map(Some);
            }
            // Informational responses leave at once.
            let flushed = self.client.writer.borrow_mut().poll_flush(cx);
            if matches!(flushed, Poll::Ready(Err(_))) {
                return Poll::Ready(None);
            }
            self.client.reader.borrow_mut().poll_gone(cx).map(|()| None)
        })
        .await
    }

    /// Writes the response; false when it broke off, and with it the connection.
    async fn send(&self, body: &mut ResponseBody) -> bool {
        if !matches!(body, ResponseBody::Upstream(_)) {
            // What a task answers has a timer of its own.
            self.deadline.set_after(self.listener.idle_timeout);
        }
        let sent = self.sent(body).await;
        if !sent {
            self.client.writer.borrow_mut().abort();
        }
        sent
    }

    async fn sent(&self, body: &mut ResponseBody) -> bool {
        poll_fn(|cx| {
            match self.client.writer.borrow_mut().poll_send(cx, body) {
                Poll::Ready(Ok(())) => return Poll::Ready(true),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(listener = self.listener.name, ?error, "response broken off");
                    if let SendError::Body(error) = error {
                        body.fail(error.kind);
                    }
                    return Poll::Ready(false);
                }
                Poll::Pending => {}
            }
            if self.client.writer.borrow_mut().has_moved() {
                body.touch();
            }
            if body.poll_timer(cx).is_ready()
                || self.deadline.poll_expired(cx).is_ready()
                || self.client.reader.borrow_mut().poll_gone(cx).is_ready()
            {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    /// Answers what is not a request with why, and closes.
    async fn refuse(&self, refused: Refused) -> Next {
        let kind = Kind::DownstreamProtocol;
        let shard = self.listener.metrics.shard(self.worker.id);
        shard.error(kind);
        let status = match refused {
            Refused::Bad(_) => StatusCode::BAD_REQUEST,
            Refused::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refused::TargetTooLong => StatusCode::URI_TOO_LONG,
            Refused::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        };
        let (name, flag, source) = (&self.listener.name, kind.flag(), kind.source());
        let text = format!("outrigger: {name}: {refused} ({flag}, {source:?})\n");
        self.close_with(kind, status, text).await
    }

    /// Answers a head that did not come to its end (RFC 9110 section 15.5.9), and closes.
    async fn too_late(&self) -> Next {
        let kind = Kind::HeaderTimeout;
        self.listener.metrics.shard(self.worker.id).error(kind);
        let (name, error) = (&self.listener.name, ProxyError::new(kind));
        let text = format!("outrigger: {name}: {error}\n");
        self.close_with(kind, kind.status(), text).await
    }

    async fn close_with(&self, kind: Kind, status: StatusCode, text: String) -> Next {
        let mut head = ResponseHead::of_text(status);
        if self.caller.hop {
            head.fields.push(VERDICT, verdict(kind).as_bytes());
        }
        self.worker.date.stamp(&mut head);
        let mut body = ResponseBody::Local(Bytes::from(text));
        let framing = frame(&mut head, &body, &Method::GET, Version::HTTP_11);
        announce(&mut head, Version::HTTP_11, false);
        self.client
            .writer
            .borrow_mut()
            .begin_response(&head, framing);
        if self.send(&mut body).await {
            Next::Linger
        } else {
            Next::Close
        }
    }

    /// Ends our direction and throws away what the client still sends, for a while.
    async fn linger(&self, bound: Duration) {
        self.deadline.set_after(bound);
        let discarded = pin!(poll_fn(|cx| {
            if let Poll::Ready(Err(_)) = self.client.writer.borrow_mut().poll_shutdown(cx) {
                return Poll::Ready(());
            }
            self.client.reader.borrow_mut().poll_discard(cx)
        }));
        self.deadline.bound(discarded).await;
    }

    async fn tunnel(self: Rc<Self>, tunnel: Box<Tunnel>) {
        let client = Rc::into_inner(self).and_then(|this| Rc::into_inner(this.client));
        let Some(client) = client else {
            return tracing::error!("a connection was upgraded while its request was held");
        };
        let (reader, writer) = (client.reader.into_inner(), client.writer.into_inner());
        if let Some(client) = http1::into_stream(reader, writer) {
            tunnel.run(client).await;
        }
    }
}

/// How the response's body travels; the head says the same when this returns (RFC 9112 section 6).
fn frame(
    head: &mut ResponseHead,
    body: &ResponseBody,
    method: &Method,
    version: Version,
) -> Framing {
    let whole = head.is_whole(method);
    let fields = &mut head.fields;
    if whole {
        if version == Version::HTTP_10 {
            fields.remove_known(Known::TransferEncoding);
        }
        return Framing::Length(0);
    }
    match body.length() {
        Some(length) => {
            fields.remove_known(Known::TransferEncoding);
            if !fields.has(Known::ContentLength) {
                fields.push("content-length", length.to_string().as_bytes());
            }
            Framing::Length(length)
        }
        None if version == Version::HTTP_11 => {
            fields.remove_known(Known::ContentLength);
            if !fields.has(Known::TransferEncoding) {
                fields.push("transfer-encoding", b"chunked");
            }
            Framing::Chunked
        }
        None => {
            fields.remove_known(Known::TransferEncoding);
            Framing::UntilClose
        }
    }
}

/// Says whether the connection stays (RFC 9112 section 9.3), where that is not what the version takes for granted.
fn announce(head: &mut ResponseHead, version: Version, keep_alive: bool) {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    match (version, keep_alive) {
        (Version::HTTP_11, false) => head.fields.push("connection", b"close"),
        (Version::HTTP_10, true) => head.fields.push("connection", b"keep-alive"),
        _ => {}
    }
}
