//! What the load generator does not see: upgrades, trailers and who speaks first.

use super::*;
use http_body_util::{Empty, StreamBody};
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;

async fn start(greeting: Option<&str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = Origin {
        name: "orders-1".to_owned(),
        greeting: greeting.map(str::to_owned),
    };
    tokio::spawn(serve(listener, origin, std::future::pending()));
    address
}

#[tokio::test]
async fn a_server_first_origin_greets_before_the_client_says_anything() {
    let mut stream = BufReader::new(
        TcpStream::connect(start(Some("220 ready")).await)
            .await
            .unwrap(),
    );
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "220 ready\n");
    stream.write_all(b"HELO\n").await.unwrap();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HELO\n");
}

#[tokio::test]
async fn an_upgraded_connection_echoes_both_ways() {
    let stream = TcpStream::connect(start(None).await).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/chat")
        .header("host", "orders")
        .header("connection", "upgrade")
        .header("upgrade", "echo");
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()[TASK_HEADER], "orders-1");
    let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    upgraded.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    upgraded.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
}

#[tokio::test]
async fn a_bidirectional_call_answers_each_message_before_the_next_and_ends_with_trailers() {
    let stream = TcpStream::connect(start(None).await).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let (messages, queue) = tokio::sync::mpsc::channel::<io::Result<Frame<Bytes>>>(1);
    let queue = futures_util::stream::unfold(queue, |mut queue| async {
        queue.recv().await.map(|next| (next, queue))
    });
    let request = Request::post("http://orders/echo.Echo/Bidi").header("te", "trailers");
    let response = sender
        .send_request(request.body(StreamBody::new(Box::pin(queue))).unwrap())
        .await
        .unwrap();
    let mut body = response.into_body();
    for text in ["one", "two", "three"] {
        messages
            .send(Ok(Frame::data(Bytes::from(text))))
            .await
            .unwrap();
        let echoed = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(echoed, text);
    }
    drop(messages);
    let trailers = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}
