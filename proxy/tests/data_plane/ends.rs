//! Both ends of a tunnel through the sidecar: clients that ask for one and applications that grant it, by either version of HTTP.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};

use crate::common::PATIENCE;
use crate::peers::{Http, Message, connect_v2, runtime};

/// The example of RFC 6455 section 1.3.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An end of a tunnel, whichever way its bytes travel.
pub(crate) enum End {
    Connection(TcpStream),
    Stream(DuplexStream),
}

impl End {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let written = match self {
            Self::Connection(stream) => stream.write_all(bytes).await,
            Self::Stream(stream) => stream.write_all(bytes).await,
        };
        written.expect("the tunnel is open");
    }

    pub(crate) async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = match self {
            Self::Connection(stream) => stream.read_exact(&mut bytes).await,
            Self::Stream(stream) => stream.read_exact(&mut bytes).await,
        };
        read.expect("so much comes");
        bytes
    }

    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = match self {
            Self::Connection(stream) => stream.read_to_end(&mut bytes).await,
            Self::Stream(stream) => stream.read_to_end(&mut bytes).await,
        };
        read.expect("the end comes in order");
        bytes
    }

    pub(crate) async fn shut(&mut self) {
        let shut = match self {
            Self::Connection(stream) => stream.shutdown().await,
            Self::Stream(stream) => stream.shutdown().await,
        };
        shut.expect("the tunnel is open");
    }
}

/// Bytes of a stream, moved by tasks of their own.
fn pipe(mut receiving: RecvStream, mut sending: SendStream<Bytes>) -> End {
    let (near, far) = duplex(1000);
    let (mut from, mut to) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(data)) = receiving.data().await {
            if to.write_all(&data).await.is_err() {
                return;
            }
            let _ = receiving.flow_control().release_capacity(data.len());
        }
        let _ = to.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 8000];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let mut data = Bytes::copy_from_slice(&buffer[..read]);
            while !data.is_empty() {
                sending.reserve_capacity(data.len());
                let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await;
                let Some(Ok(room)) = room else { return };
                let _ = sending.send_data(data.split_to(room.min(data.len())), false);
            }
        }
        let _ = sending.send_data(Bytes::new(), true);
    });
    End::Stream(near)
}

/// A request for a tunnel, with what grants it.
pub(crate) struct Asked {
    pub(crate) head: Message,
    pub(crate) protocol: Option<String>,
    pub(crate) grant: Grant,
}

pub(crate) enum Grant {
    Connection(TcpStream),
    Stream(RecvStream, h2::server::SendResponse<Bytes>),
}

impl Asked {
    /// Grants it, with a further field.
    pub(crate) async fn grant(self) -> End {
        match self.grant {
            Grant::Connection(mut stream) => {
                let key = self.head.values("sec-websocket-key").concat();
                let upgrade = self.head.values("upgrade").concat();
                let answer = format!(
                    "HTTP/1.1 101 Go\r\nUpgrade: {upgrade}\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
                     Sec-WebSocket-Protocol: chat\r\n\r\n",
                    accept(&key)
                );
                let written = stream.write_all(answer.as_bytes()).await;
                written.expect("the connection is open");
                End::Connection(stream)
            }
            Grant::Stream(receiving, mut respond) => {
                let answer = Response::builder().header("sec-websocket-protocol", "chat");
                let answer = answer.body(()).expect("it is valid");
                let sending = respond.send_response(answer, false);
                pipe(receiving, sending.expect("the stream is open"))
            }
        }
    }

    /// Answers something else.
    pub(crate) async fn refuse(self, status: u16) {
        match self.grant {
            Grant::Connection(mut stream) => {
                let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\n\r\nno");
                let written = stream.write_all(answer.as_bytes()).await;
                written.expect("the connection is open");
            }
            Grant::Stream(_, mut respond) => {
                let answer = Response::builder().status(status).body(());
                let answer = answer.expect("it is valid");
                let mut sending = respond.send_response(answer, false).expect("it is open");
                let sent = sending.send_data(Bytes::from_static(b"no"), true);
                sent.expect("it is open");
            }
        }
    }
}

fn accept(key: &str) -> String {
    let guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64.encode(Sha1::digest(format!("{key}{guid}")))
}

async fn read_head(stream: &mut TcpStream) -> Message {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.expect("the head comes whole"));
    }
    crate::peers::read_v1(&mut &text[..], true).expect("there is a head")
}

/// An application that hands out what it is asked. By HTTP/2 it takes extended CONNECT if `offers`.
pub(crate) async fn task(http: Http, host: [u8; 4], offers: bool) -> (SocketAddr, Receiver<Asked>) {
    let socket = TcpListener::bind((std::net::IpAddr::from(host), 0)).await;
    let socket = socket.expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let (told, asked) = channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            stream.set_nodelay(true).expect("the option can be set");
            let told = told.clone();
            let mut first = [0; 3];
            stream.peek(&mut first).await.expect("something comes");
            if http == Http::V1 || &first != b"PRI" {
                tokio::spawn(async move {
                    let head = read_head(&mut stream).await;
                    let protocol = None;
                    let grant = Grant::Connection(stream);
                    let asked = Asked {
                        head,
                        protocol,
                        grant,
                    };
                    let _ = told.send(asked).await;
                });
                continue;
            }
            let mut builder = h2::server::Builder::new();
            if offers {
                builder.enable_connect_protocol();
            }
            let handshake = builder.initial_window_size(5000).handshake(stream).await;
            let mut connection = handshake.expect("it speaks HTTP/2");
            tokio::spawn(async move {
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let _ = told.send(taken(request, respond)).await;
                }
            });
        }
    });
    (address, asked)
}

fn taken(request: Request<RecvStream>, respond: h2::server::SendResponse<Bytes>) -> Asked {
    let protocol = request.extensions().get::<Protocol>();
    let protocol = protocol.map(|protocol| protocol.as_str().to_owned());
    let (parts, receiving) = request.into_parts();
    let mut head = Message::new(&format!("{} {}", parts.method, parts.uri));
    for (name, value) in &parts.headers {
        head = head.field(name.as_str(), value.to_str().expect("it is text"));
    }
    Asked {
        head,
        protocol,
        grant: Grant::Stream(receiving, respond),
    }
}

/// Asks for a tunnel; what a refusal has for a body stays in the end.
pub(crate) async fn open(client: Http, address: SocketAddr, protocol: &str) -> (Message, End) {
    match client {
        Http::V1 => {
            let mut stream = TcpStream::connect(address).await.expect("it is bound");
            stream.set_nodelay(true).expect("the option can be set");
            let head = format!(
                "GET /chat?a=1 HTTP/1.1\r\nHost: app\r\nUpgrade: {protocol}\r\nConnection: keep-alive, Upgrade\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            );
            let written = stream.write_all(head.as_bytes()).await;
            written.expect("the connection is open");
            (read_head(&mut stream).await, End::Connection(stream))
        }
        Http::V2 => {
            let (head, receiving, sending) = open_v2(address, protocol).await;
            (head, pipe(receiving, sending))
        }
    }
}

pub(crate) async fn open_v2(
    address: SocketAddr,
    protocol: &str,
) -> (Message, RecvStream, SendStream<Bytes>) {
    let mut client = connect_v2(address).await;
    while !client.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("https://app/chat?a=1")
        .extension(Protocol::from(protocol))
        .header("sec-websocket-version", "13")
        .body(())
        .expect("it is valid");
    let sent = client.send_request(request, false);
    let (answer, sending) = sent.expect("the stream can be opened");
    let answer = answer.await.expect("there is an answer");
    let mut head = Message::new(answer.status().as_str());
    for (name, value) in answer.headers() {
        head = head.field(name.as_str(), value.to_str().expect("it is text"));
    }
    (head, answer.into_body(), sending)
}

pub(crate) fn in_time<F: Future>(test: F) -> F::Output {
    let timed = async { tokio::time::timeout(PATIENCE, test).await };
    runtime().block_on(timed).expect("the test ends in time")
}

/// More than any window holds goes both ways at once; then each end closes in turn.
pub(crate) async fn talk(client: &mut End, task: &mut End) {
    client.write(b"ping").await;
    assert_eq!(task.read(4).await, b"ping");
    task.write(b"pong").await;
    assert_eq!(client.read(4).await, b"pong");
    let much: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
    let echo = async {
        for _ in 0..much.len() / 1000 {
            let bytes = task.read(1000).await;
            task.write(&bytes).await;
        }
    };
    let sent_and_read = async {
        // A part at a time: an end that only wrote would wait for one that only writes.
        for part in much.chunks(10_000) {
            client.write(part).await;
            assert!(client.read(part.len()).await == part);
        }
    };
    tokio::join!(echo, sent_and_read);
    client.shut().await;
    assert_eq!(task.rest().await, b"");
    task.write(b"bye").await;
    task.shut().await;
    assert_eq!(client.rest().await, b"bye");
}
