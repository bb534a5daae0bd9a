//! Each bound of the data plane, filled by a real client against a real sidecar process.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};

use crate::common::{GET, PATIENCE, Sidecar, application, exchange, free, read_all};

#[test]
fn a_head_over_the_limit_is_answered_431() {
    let origin = application([127, 61, 0, 3]);
    let sidecar = Sidecar::start(
        free([127, 61, 0, 4]),
        "max_header_bytes = 8192",
        &origin.to_string(),
        "",
    );
    let request = format!(
        "GET / HTTP/1.1\r\nhost: app\r\nx-long: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    let answer = exchange(sidecar.listener, &request);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let origin = application([127, 61, 0, 7]);
    let sidecar = Sidecar::start(
        free([127, 61, 0, 8]),
        "idle_timeout = \"200ms\"",
        &origin.to_string(),
        "",
    );
    let mut stream = sidecar.connect();
    stream
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    let answer = read_all(stream);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
}

/// What a client gets that sends a GET, then says that it sends no more.
fn half_closed(sidecar: &Sidecar) -> String {
    let mut stream = sidecar.connect();
    stream
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    stream
        .shutdown(Shutdown::Write)
        .expect("the connection is open");
    read_all(stream)
}

#[test]
fn a_task_that_never_answers_is_a_504_with_its_reason() {
    let silent = TcpListener::bind("127.61.0.9:0").expect("loopback can be bound");
    let origin = silent.local_addr().expect("a bound socket has an address");
    let sidecar = Sidecar::start(
        free([127, 61, 0, 10]),
        "",
        &origin.to_string(),
        "per_request_timeout = \"200ms\"",
    );
    let answer = half_closed(&sidecar);
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && answer.contains("(UT"),
        "{answer:?}"
    );
}

#[test]
fn a_service_without_a_reachable_task_is_a_503_with_its_reason() {
    let sidecar = Sidecar::start(
        free([127, 61, 0, 11]),
        "",
        &free([127, 61, 0, 12]).to_string(),
        "",
    );
    let answer = half_closed(&sidecar);
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("(UF"),
        "{answer:?}"
    );
}

#[test]
fn plain_connect_is_refused() {
    let origin = application([127, 61, 0, 13]);
    let sidecar = Sidecar::start(free([127, 61, 0, 14]), "", &origin.to_string(), "");
    let answer = exchange(
        sidecar.listener,
        "CONNECT app:80 HTTP/1.1\r\nhost: app:80\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer:?}");
}

#[test]
fn an_http2_client_that_stops_reading_is_reset_after_the_idle_timeout() {
    let socket =
        TcpListener::bind(SocketAddr::from(([127, 61, 0, 31], 0))).expect("loopback can be bound");
    let origin = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().expect("the sidecar connects");
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
        let answer = [head.as_bytes(), &[b'x'; 100_000]].concat();
        // It fails when the sidecar gives up, which is what this waits for.
        let _ = stream.write_all(&answer);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let sidecar = Sidecar::start(
        free([127, 61, 0, 32]),
        "",
        &origin.to_string(),
        "idle_timeout = \"300ms\"",
    );
    let reads = async {
        let stream = tokio::net::TcpStream::connect(sidecar.listener).await?;
        let mut builder = h2::client::Builder::new();
        let handshake = builder.initial_window_size(1000);
        let (mut client, connection) = handshake
            .handshake::<_, bytes::Bytes>(stream)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let request = http::Request::get("http://app/")
            .body(())
            .expect("it is valid");
        let (response, _) = client
            .send_request(request, true)
            .map_err(std::io::Error::other)?;
        let mut body = response.await.map_err(std::io::Error::other)?.into_body();
        // No window is ever given back.
        while let Some(data) = body.data().await {
            data.map_err(std::io::Error::other)?;
        }
        Ok::<_, std::io::Error>(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, reads).await });
    let error = ended
        .expect("the stream is reset in time")
        .expect_err("the body does not come whole");
    let reset = error
        .into_inner()
        .and_then(|cause| cause.downcast::<h2::Error>().ok());
    assert!(reset.is_some_and(|reset| reset.is_reset()));
}
