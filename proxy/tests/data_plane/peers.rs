//! Clients and applications of either version of HTTP that exchange the same whole messages, for tests of every combination.

use std::future::poll_fn;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

use crate::certificates::{Authority, id};
use crate::common::{PATIENCE, Sidecar, connect, free, hop_table};
use crate::tls;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    V1,
    V2,
}

/// What the client speaks, and what the application speaks.
pub(crate) const COMBINATIONS: [(Http, Http); 4] = [
    (Http::V1, Http::V1),
    (Http::V1, Http::V2),
    (Http::V2, Http::V1),
    (Http::V2, Http::V2),
];

type Pairs = Vec<(String, String)>;

/// A whole message, whichever way it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) start: String,
    pub(crate) fields: Pairs,
    pub(crate) body: String,
    pub(crate) trailers: Pairs,
}

impl Message {
    pub(crate) fn new(start: &str) -> Self {
        Self {
            start: start.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter();
        let named = named.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// All fields, in an order of names.
    pub(crate) fn sorted(&self) -> Vec<(&str, &str)> {
        let fields = self.fields.iter();
        let mut sorted: Vec<_> = fields.map(|(n, v)| (n.as_str(), v.as_str())).collect();
        sorted.sort_unstable();
        sorted
    }
}

/// An application that tells what it is sent, and answers each request with these, of which the last counts.
pub(crate) fn application(
    http: Http,
    host: [u8; 4],
    answers: Vec<Message>,
) -> (SocketAddr, Receiver<Message>) {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let (told, seen) = channel();
    let answers = Arc::new(answers);
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let (told, answers) = (told.clone(), Arc::clone(&answers));
            std::thread::spawn(move || match http {
                Http::V1 => serve_v1(stream, |request| {
                    let _ = told.send(request);
                    answers.to_vec()
                }),
                Http::V2 => serve_v2(stream, async |request, mut respond| {
                    let (request, _) = receive(request).await;
                    let _ = told.send(request);
                    let (last, before) = answers.split_last().expect("there is an answer");
                    for head in before {
                        respond
                            .send_informational(response(head))
                            .expect("it is one");
                    }
                    let whole = last.body.is_empty() && last.trailers.is_empty();
                    let stream = respond.send_response(response(last), whole);
                    if !whole {
                        send(stream.expect("the stream is open"), last);
                    }
                }),
            });
        }
    });
    (address, seen)
}

fn serve_v1(stream: TcpStream, answers: impl Fn(Message) -> Vec<Message>) {
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut stream = stream;
    while let Some(request) = read_v1(&mut reader, false) {
        let only_head = request.start.starts_with("HEAD ");
        for answer in answers(request) {
            let mut first = format!("HTTP/1.1 {} As It Is", answer.start);
            let framed = ["content-length", "transfer-encoding"];
            if answer.body.is_empty()
                && answer.trailers.is_empty()
                && !framed.iter().any(|name| !answer.values(name).is_empty())
                && !(only_head || is_bodiless(&answer))
            {
                first += "\r\ncontent-length: 0";
            }
            if stream.write_all(&wire(&answer, &first)).is_err() {
                return;
            }
        }
    }
}

/// Serves one connection by HTTP/2, a request at a time.
pub(crate) fn serve_v2(
    stream: TcpStream,
    answer: impl AsyncFn(Request<RecvStream>, h2::server::SendResponse<Bytes>),
) {
    runtime().block_on(async {
        stream.set_nonblocking(true).expect("a socket can be so");
        let stream = tokio::net::TcpStream::from_std(stream).expect("the runtime takes it");
        let mut builder = h2::server::Builder::new();
        let handshake = builder.enable_connect_protocol().handshake(stream);
        let Ok(mut connection) = handshake.await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            let answered = answer(request, respond);
            tokio::select! {
                () = answered => {}
                _ = poll_fn(|cx| connection.poll_closed(cx)) => return,
            }
        }
    });
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

/// A sidecar before the application, which speaks `http`.
pub(crate) fn sidecar(http: Http, host: [u8; 4], application: SocketAddr) -> Sidecar {
    let protocol = match http {
        Http::V1 => "http",
        Http::V2 => "http2",
    };
    if std::env::var_os(BY_TLS).is_some() {
        return pair(protocol, host, application);
    }
    Sidecar::speaking(protocol, free(host), "", &application.to_string(), "")
}

/// Where this is set, there are two sidecars with mutual TLS between them in place of one.
pub(crate) const BY_TLS: &str = "OUTRIGGER_TEST_BY_TLS";

fn pair(protocol: &str, host: [u8; 4], application: SocketAddr) -> Sidecar {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let fields = format!("{}\n{}", hop_table("one"), orders.listener("strict"));
    let task = application.to_string();
    let ingress = Sidecar::speaking(protocol, free(host), &fields, &task, "");
    let tasks = [(ingress.listener, Some("one"))];
    let egress = tls::egress(host, protocol, &tasks, &web, &id("orders"));
    egress.beside(ingress).beside(ca)
}

/// Sends the request; what comes back ends with the answer that counts.
pub(crate) fn ask(http: Http, address: SocketAddr, request: &Message) -> Vec<Message> {
    match http {
        Http::V1 => {
            let mut stream = connect(address);
            let first = format!("{} HTTP/1.1\r\nhost: app", request.start);
            stream
                .write_all(&wire(request, &first))
                .expect("it is written");
            answers_v1(&stream, request.start.starts_with("HEAD "))
        }
        Http::V2 => runtime().block_on(async {
            let asked = tokio::time::timeout(PATIENCE, ask_v2(address, request));
            asked.await.expect("there is an answer in time")
        }),
    }
}

/// Reads what a client of HTTP/1.1 gets for one request.
pub(crate) fn answers_v1(stream: &TcpStream, bodiless: bool) -> Vec<Message> {
    let mut reader = BufReader::new(stream);
    let mut answers = Vec::new();
    loop {
        let answer = read_v1(&mut reader, bodiless).expect("there is an answer");
        let last = !answer.start.starts_with('1') || answer.start == "101";
        answers.push(answer);
        if last {
            return answers;
        }
    }
}

/// A client's connection by HTTP/2, driven in a task of its own.
pub(crate) async fn connect_v2(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream = stream.expect("the listener is bound");
    stream.set_nodelay(true).expect("the option can be set");
    let handshake = h2::client::handshake(stream);
    let (client, connection) = handshake.await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    client.ready().await.expect("the connection is open")
}

/// The head of a request to the application.
pub(crate) fn request(message: &Message) -> Request<()> {
    let (method, target) = message.start.split_once(' ').expect("it has a target");
    let builder = Request::builder().method(method);
    let mut request = builder
        .uri(format!("http://app{target}"))
        .body(())
        .expect("it is valid");
    *request.headers_mut() = map(&message.fields);
    request
}

async fn ask_v2(address: SocketAddr, message: &Message) -> Vec<Message> {
    let mut client = connect_v2(address).await;
    let whole = message.body.is_empty() && message.trailers.is_empty();
    let sent = client.send_request(request(message), whole);
    let (mut answer, stream) = sent.expect("the stream can be opened");
    if !whole {
        send(stream, message);
    }
    let mut answers = Vec::new();
    while let Some(head) = poll_fn(|cx| answer.poll_informational(cx)).await {
        let head = head.expect("the stream is open");
        answers.push(Message {
            start: head.status().as_str().to_owned(),
            fields: pairs(head.headers()),
            ..Message::default()
        });
    }
    let response = answer.await.expect("there is an answer");
    let (parts, body) = response.into_parts();
    let (body, trailers) = drain(body).await;
    answers.push(Message {
        start: parts.status.as_str().to_owned(),
        fields: pairs(&parts.headers),
        body,
        trailers,
    });
    answers
}

/// Reads a request that came by HTTP/2; `:authority` stands as `host`, as it does in HTTP/1.1.
pub(crate) async fn receive(request: Request<RecvStream>) -> (Message, http::request::Parts) {
    let (parts, body) = request.into_parts();
    let (body, trailers) = drain(body).await;
    let target = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let mut fields = pairs(&parts.headers);
    if let Some(authority) = parts.uri.authority() {
        fields.push(("host".to_owned(), authority.to_string()));
    }
    let message = Message {
        start: format!("{} {target}", parts.method),
        fields,
        body,
        trailers,
    };
    (message, parts)
}

pub(crate) async fn drain(mut body: RecvStream) -> (String, Pairs) {
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("the body comes whole");
        // It fails when the peer has reset the stream, which the next read says.
        let _ = body.flow_control().release_capacity(data.len());
        text.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.expect("the stream is open");
    let text = String::from_utf8_lossy(&text).into_owned();
    (text, trailers.map_or_else(Vec::new, |map| pairs(&map)))
}

fn send(mut stream: SendStream<Bytes>, message: &Message) {
    let last = message.trailers.is_empty();
    let data = Bytes::from(message.body.clone());
    // These fail where the sidecar has reset the stream, which is what such a test looks at.
    let _ = stream.send_data(data, last);
    if !last {
        let _ = stream.send_trailers(map(&message.trailers));
    }
}

pub(crate) fn response(message: &Message) -> Response<()> {
    let builder = Response::builder().status(message.start.as_str());
    let mut response = builder.body(()).expect("it is valid");
    *response.headers_mut() = map(&message.fields);
    response
}

fn map(pairs: &Pairs) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("it is a token");
        map.append(name, HeaderValue::from_str(value).expect("it is a value"));
    }
    map
}

fn pairs(map: &HeaderMap) -> Pairs {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

/// The message as HTTP/1.1: chunked unless its fields say how long it is.
fn wire(message: &Message, first: &str) -> Vec<u8> {
    let mut text = format!("{first}\r\n");
    for (name, value) in &message.fields {
        text += &format!("{name}: {value}\r\n");
    }
    let has_body = !(message.body.is_empty() && message.trailers.is_empty());
    if !has_body || !message.values("content-length").is_empty() {
        text += "\r\n";
        text += &message.body;
        return text.into_bytes();
    }
    if message.values("transfer-encoding").is_empty() {
        text += "transfer-encoding: chunked\r\n";
    }
    text += "\r\n";
    if !message.body.is_empty() {
        text += &format!("{:x}\r\n{}\r\n", message.body.len(), message.body);
    }
    text += "0\r\n";
    for (name, value) in &message.trailers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    text.into_bytes()
}

/// Reads one message by HTTP/1.1; `None` at the end of the connection.
pub(crate) fn read_v1(reader: &mut impl BufRead, bodiless: bool) -> Option<Message> {
    let first = line(reader)?;
    let words: Vec<_> = first.splitn(3, ' ').collect();
    let start = if words[0].starts_with("HTTP/") {
        words[1].to_owned()
    } else {
        format!("{} {}", words[0], words[1])
    };
    let fields = block(reader);
    let mut message = Message {
        start,
        fields,
        ..Message::default()
    };
    if bodiless || is_bodiless(&message) {
        return Some(message);
    }
    let length = message.values("content-length").first().copied();
    if let Some(length) = length {
        let mut body = vec![0; length.parse().expect("it is a number")];
        reader.read_exact(&mut body).expect("the body comes whole");
        message.body = String::from_utf8_lossy(&body).into_owned();
    } else if !message.values("transfer-encoding").is_empty() {
        loop {
            let size = line(reader).expect("the body comes whole");
            let size = usize::from_str_radix(&size, 16).expect("it is a size");
            if size == 0 {
                break;
            }
            let mut chunk = vec![0; size + 2];
            reader
                .read_exact(&mut chunk)
                .expect("the chunk comes whole");
            message.body += &String::from_utf8_lossy(&chunk[..size]);
        }
        message.trailers = block(reader);
    }
    Some(message)
}

fn is_bodiless(message: &Message) -> bool {
    message.start.starts_with('1') || ["204", "304"].contains(&message.start.as_str())
}

fn block(reader: &mut impl BufRead) -> Pairs {
    let mut fields = Vec::new();
    loop {
        let line = line(reader).expect("the fields come whole");
        let Some((name, value)) = line.split_once(':') else {
            return fields;
        };
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Without its end; `None` at the end of the connection.
fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let read = reader.read_line(&mut line).expect("it comes in time");
    (read > 0).then(|| line.trim_end_matches("\r\n").to_owned())
}
