use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::wire::{BATCH, Message, Wire};
use super::*;

fn identity(secret: &str) -> Identity {
    Identity::new("demo/orders-1".to_owned(), secret.to_owned())
}

/// A sidecar that waits for its successor.
struct Running {
    folder: tempfile::TempDir,
    door: Door,
}

impl Running {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let door = Door::open(
            &folder.path().join(FILE),
            identity("secret"),
            &mut Inherited::default(),
        );
        Self {
            door: door.expect("opens"),
            folder,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }
}

/// So many sockets, each with an address of its own.
fn sockets(count: usize) -> Vec<Socket> {
    let socket = |index| {
        let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = socket.local_addr().expect("bound");
        Socket::new(format!("listener-{index}"), Some(address), socket)
    };
    (0..count).map(socket).collect()
}

#[tokio::test]
async fn sockets_of_several_messages_arrive_with_what_waits_in_them() {
    let running = Running::new();
    let lent = sockets(2 * BATCH + 3);
    let first = lent[0].label.asked.expect("an address");
    let old = async {
        let mut successor = running.door.successor().await;
        successor.ready(&lent).await.expect("takes over");
        drop(lent);
        successor.leave(&sockets(1)).await.expect("sent");
    };
    let identity = identity("secret");
    let path = running.path();
    let new = async {
        let found = find(&path, &identity).await.expect("found");
        let (predecessor, sockets) = found.expect("somebody runs");
        assert_eq!(predecessor.process(), std::process::id().cast_signed());
        assert_eq!(sockets.len(), 2 * BATCH + 3);
        // Waits in the queue while the one process stops and the other has not begun.
        let waiting = TcpStream::connect(first).expect("connects");
        let late = predecessor.take_over().await.expect("taken over");
        assert_eq!(late.len(), 1);
        let mut inherited = Inherited::default();
        inherited.add(sockets);
        inherited.add(late);
        (waiting, inherited)
    };
    let ((), (mut waiting, mut inherited)) = tokio::join!(old, new);
    let socket = inherited.listener("renamed", first).expect("is there");
    let (mut accepted, _) = socket.accept().expect("accepts");
    accepted.write_all(b"served").expect("writes");
    drop(accepted);
    let mut text = String::new();
    waiting.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "served");
}

#[tokio::test]
async fn the_door_is_private_and_is_handed_over_itself() {
    let running = Running::new();
    let mode = std::fs::metadata(running.path()).expect("exists");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let mut inherited = Inherited::default();
    inherited.add(vec![running.door.socket().expect("lends it")]);
    let path = running.path();
    drop(running.door);
    // Between the two processes: it waits instead of being refused.
    let knocking = UnixStream::connect(&path).await.expect("connects");
    let next = Door::open(&path, identity("secret"), &mut inherited).expect("adopts");
    let refusing = tokio::spawn(async move { next.turn_away("a test").await });
    let mut wire = Wire::new(knocking);
    let reason = "a test".to_owned();
    let answer = wire.receive().await.expect("is answered");
    assert_eq!(answer, Some(Message::Refused { reason }));
    refusing.abort();
}

#[tokio::test]
async fn nobody_is_found_where_nothing_listens() {
    let running = Running::new();
    let (path, identity) = (running.path(), identity("secret"));
    drop(running.door);
    let stale = find(&path, &identity).await.expect("no error");
    assert!(stale.is_none(), "the socket of a process that was killed");
    let missing = find(&path.with_extension("none"), &identity).await;
    assert!(missing.expect("no error").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_answer_is_left_alone() {
    let running = Running::new();
    let found = find(&running.path(), &identity("secret")).await;
    assert!(found.expect("no error").is_none());
}

/// Asks the running one and returns why it did not work, in the words of the one who asks.
async fn refused(running: &Running, identity: &Identity) -> String {
    let path = running.path();
    let asked = find(&path, identity);
    tokio::select! {
        _ = running.door.successor() => panic!("it was let in"),
        found = asked => found.expect_err("refused").to_string(),
    }
}

#[tokio::test]
async fn only_the_same_sidecar_with_the_same_secret_is_let_in() {
    let running = Running::new();
    let told = refused(&running, &identity("another")).await;
    assert!(told.contains("does not hold this node's secret"), "{told}");
    let other = Identity {
        node: "demo/cart-1".to_owned(),
        ..identity("secret")
    };
    let told = refused(&running, &other).await;
    assert!(
        told.contains("demo/cart-1") && told.contains("demo/orders-1"),
        "{told}"
    );
    let elsewhere = Identity {
        network: "0:1".to_owned(),
        ..identity("secret")
    };
    let told = refused(&running, &elsewhere).await;
    assert!(told.contains("another network namespace"), "{told}");
}

#[tokio::test]
async fn a_process_without_the_secret_gets_no_socket() {
    let running = Running::new();
    let mut wire = Wire::new(UnixStream::connect(running.path()).await.expect("connects"));
    let identity = identity("unused");
    let hello = Message::Hello {
        version: VERSION,
        node: identity.node,
        network: identity.network,
        nonce: "mine".to_owned(),
    };
    let knocking = async {
        wire.send(&hello).await.expect("sends");
        let challenge = wire.receive().await.expect("answered");
        let Some(Message::Challenge { proof, .. }) = challenge else {
            panic!("{challenge:?}");
        };
        // What the other side proved is no proof of ours.
        wire.send(&Message::Proof { proof }).await.expect("sends");
        wire.receive().await.expect("answered")
    };
    tokio::select! {
        _ = running.door.successor() => panic!("it was let in"),
        answer = knocking => {
            let refused = matches!(&answer, Some(Message::Refused { reason }) if reason.contains("secret"));
            assert!(refused, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn another_version_is_refused_with_both_numbers() {
    let running = Running::new();
    let mut stream = UnixStream::connect(running.path()).await.expect("connects");
    // Whatever a later version adds to its hello.
    let hello = br#"{"is":"hello","version":7,"more":[1]}"#;
    let knocking = async {
        stream.write_u32(hello.len() as u32).await.expect("writes");
        stream.write_all(hello).await.expect("writes");
        let mut answer = String::new();
        let length = stream.read_u32().await.expect("answered");
        let mut stream = stream.take(length.into());
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    };
    tokio::select! {
        _ = running.door.successor() => panic!("it was let in"),
        answer = knocking => {
            assert!(answer.contains("refused"), "{answer}");
            assert!(answer.contains("version 7") && answer.contains("version 1"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_successor_that_ends_before_it_takes_over_is_an_error_and_the_next_one_is_let_in() {
    let running = Running::new();
    let lent = sockets(1);
    let (path, identity) = (running.path(), identity("secret"));
    for _ in 0..2 {
        let old = async {
            let mut successor = running.door.successor().await;
            successor.ready(&lent).await.expect_err("it ended")
        };
        let new = async { drop(find(&path, &identity).await.expect("found")) };
        let (error, ()) = tokio::join!(old, new);
        assert!(error.to_string().contains("ended"), "{error}");
    }
}

#[tokio::test]
async fn who_is_dropped_before_the_end_is_refused_and_not_left_alone() {
    let running = Running::new();
    let (path, identity) = (running.path(), identity("secret"));
    let old = async {
        let mut successor = running.door.successor().await;
        successor.ready(&sockets(1)).await.expect("takes over");
    };
    let new = async {
        let (predecessor, _) = find(&path, &identity).await.expect("found").expect("runs");
        predecessor.take_over().await.expect_err("refused")
    };
    let ((), error) = tokio::join!(old, new);
    assert!(error.to_string().contains("hands nothing over"), "{error}");
}

#[tokio::test]
async fn messages_and_descriptors_are_bounded() {
    let (near, far) = UnixStream::pair().expect("a pair");
    let mut wire = Wire::new(near);
    let mut far = far;
    far.write_u32(10_000_000).await.expect("writes");
    let error = wire.receive().await.expect_err("too long");
    assert!(error.to_string().contains("too long"), "{error}");

    let (near, far) = UnixStream::pair().expect("a pair");
    let (mut near, far) = (Wire::new(near), Wire::new(far));
    let flood = async { while far.send_sockets(&sockets(BATCH)).await.is_ok() {} };
    let read = async {
        loop {
            // Never asks for the descriptors that came.
            if let Err(error) = near.receive().await {
                return error;
            }
        }
    };
    tokio::select! {
        () = flood => panic!("the other side ends first"),
        error = read => assert!(error.to_string().contains("descriptors"), "{error}"),
    }
}

#[test]
fn a_path_that_no_unix_socket_can_have_is_named() {
    let long = "/".to_owned() + &"x".repeat(200);
    let reason = path(Path::new(&long)).expect_err("too long");
    assert!(
        reason.contains("214 bytes") && reason.contains(&long),
        "{reason}"
    );
    assert!(path(Path::new("/var/lib/outrigger")).is_ok());
}
