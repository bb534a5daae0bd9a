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
        ..Origin::default()
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

/// A client of an origin that is told to end while its request is under way; whether the connection takes another one then.
async fn outlives_the_end(keep_idle: Duration) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopped = Arc::clone(&stop);
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let origin = Origin {
        keep_idle,
        ledger: Some(Arc::new(Ledger::open(&ledger, "orders-1").unwrap())),
        ..Origin::default()
    };
    let served = tokio::spawn(serve(listener, origin, async move {
        stopped.notified().await;
    }));
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let get = || {
        Request::get("/?ms=50")
            .header(ID_HEADER, "one")
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap()
    };
    let told = async {
        while std::fs::read(&ledger).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.notify_one();
    };
    let (under_way, ()) = tokio::join!(sender.send_request(get()), told);
    let under_way = under_way.unwrap();
    assert_eq!(under_way.status(), StatusCode::OK);
    under_way.into_body().collect().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    let again = match sender.ready().await {
        Ok(()) => sender.send_request(get()).await.is_ok(),
        Err(_) => false,
    };
    drop(sender);
    served.await.unwrap().unwrap();
    again
}

#[tokio::test]
async fn an_origin_told_to_end_finishes_its_answer_and_keeps_its_idle_connections_or_not() {
    assert!(outlives_the_end(KEEP_IDLE).await);
    assert!(!outlives_the_end(Duration::ZERO).await);
}
