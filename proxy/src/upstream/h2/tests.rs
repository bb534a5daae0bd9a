//! One connection and a peer that is told what to do, over loopback.

use http::{Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, Receiver};

use super::*;
use crate::policy::limits::tests::share;

/// A body that is sent part by part.
struct Parts(Receiver<Bytes>);

impl Body for Parts {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        let part = self.0.poll_recv(cx);
        part.map(|part| part.map(|data| Ok(Part::Data(data))))
    }

    fn is_end(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }

    fn length(&self) -> Option<u64> {
        None
    }
}

fn parts() -> (mpsc::Sender<Bytes>, Parts) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, Parts(receiver))
}

fn head(method: Method) -> RequestHead {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static("http://orders/");
    RequestHead::from_h2(request.into_parts().0)
}

/// Sends a GET and returns the response's head.
async fn get(sender: &mut Sender) -> Result<ResponseHead, Failed> {
    let (closed, body) = parts();
    drop(closed);
    let (head, _) = sender
        .send(&mut head(Method::GET), body, None, |_| ())
        .await?;
    Ok(head)
}

/// A worker's runtime; `paused` lets its clock jump to the next timer when nothing else is to do.
fn on_a_worker<F: Future>(paused: bool, test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

async fn connected() -> (Sender, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
    let (peer, _) = listener.accept().await.unwrap();
    (
        h2(stream.unwrap().into(), false, share()).await.unwrap(),
        peer,
    )
}

/// Answers 200 with no body.
fn answer(mut respond: h2::server::SendResponse<Bytes>) {
    respond.send_response(Response::new(()), true).unwrap();
}

#[test]
fn a_request_after_goaway_is_handed_back() {
    on_a_worker(false, async {
        let (mut sender, peer) = connected().await;
        let peer = tokio::task::spawn_local(async move {
            let mut peer = h2::server::handshake(peer).await.unwrap();
            answer(peer.accept().await.unwrap().unwrap().1);
            peer.graceful_shutdown();
            assert!(peer.accept().await.is_none());
        });
        assert!(get(&mut sender.clone()).await.is_ok());
        peer.await.unwrap();
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
        let failed = get(&mut sender)
            .await
            .expect_err("the connection is closed");
        assert!(failed.unsent);
    });
}

#[test]
fn a_connection_without_senders_and_streams_is_closed() {
    on_a_worker(false, async {
        let (sender, peer) = connected().await;
        let mut peer = h2::server::handshake(peer).await.unwrap();
        drop(sender);
        assert!(peer.accept().await.is_none());
    });
}

#[test]
fn a_request_body_goes_on_after_the_response_head() {
    on_a_worker(false, async {
        let (mut sender, peer) = connected().await;
        let (body, rest) = parts();
        let received = tokio::task::spawn_local(async move {
            let mut peer = h2::server::Builder::new()
                .initial_window_size(1000)
                .handshake::<_, Bytes>(peer)
                .await
                .unwrap();
            let (request, mut respond) = peer.accept().await.unwrap().unwrap();
            let mut response = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            let mut received = Vec::new();
            let reading = async {
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    received.extend_from_slice(&data);
                }
                response.send_data(Bytes::new(), true).unwrap();
            };
            tokio::select! {
                () = reading => {}
                _ = poll_fn(|cx| peer.poll_closed(cx)) => panic!("the peer stays"),
            }
            // What is left to write is written.
            poll_fn(|cx| peer.poll_closed(cx)).await.unwrap();
            received
        });
        body.try_send(Bytes::from_static(b"first ")).unwrap();
        let mut request = head(Method::POST);
        let sent = sender.send(&mut request, rest, None, |_| ());
        let (_, mut exchange) = sent.await.unwrap();
        let large = Bytes::from(vec![b'x'; 100_000]);
        body.try_send(large.clone()).unwrap();
        body.try_send(Bytes::from_static(b" last")).unwrap();
        drop(body);
        while let Some(part) = poll_fn(|cx| exchange.poll_part(cx)).await {
            assert!(matches!(part, Ok(Part::Data(data)) if data.is_empty()));
        }
        drop((exchange, sender));
        let expected = [b"first ", &large[..], b" last"].concat();
        assert!(received.await.unwrap() == expected);
    });
}

#[test]
fn a_peer_that_is_silent_while_a_request_waits_is_asked_and_then_given_up() {
    on_a_worker(true, async {
        let (mut sender, peer) = connected().await;
        let start = Instant::now();
        let failed = get(&mut sender).await.expect_err("nobody answers");
        assert_eq!(failed.error.kind, Kind::ConnectionTermination);
        assert!(!failed.unsent);
        assert!(start.elapsed() >= PING_AFTER * 2 && start.elapsed() < PING_AFTER * 4);
        assert!(sender.is_closed());
        drop(peer);
    });
}

#[test]
fn a_silent_connection_without_streams_is_left_alone() {
    on_a_worker(true, async {
        let (sender, peer) = connected().await;
        tokio::time::sleep(PING_AFTER * 10).await;
        assert!(!sender.is_closed());
        drop(peer);
    });
}

#[test]
fn a_request_that_is_given_up_resets_its_stream() {
    on_a_worker(false, async {
        let (sender, peer) = connected().await;
        let mut one = sender.clone();
        let waiting = tokio::task::spawn_local(async move { get(&mut one).await.is_ok() });
        let mut peer = h2::server::handshake(peer).await.unwrap();
        let (_request, mut respond) = peer.accept().await.unwrap().unwrap();
        waiting.abort();
        let reset = tokio::select! {
            reset = poll_fn(|cx| respond.poll_reset(cx)) => reset.unwrap(),
            _ = peer.accept() => panic!("no other request comes"),
        };
        assert_eq!(reset, Reason::CANCEL);
    });
}
