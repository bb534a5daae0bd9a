//! What the socket sees of the writes and reads that the connection makes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Waker;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A socket that counts: writes are kept one by one, as far as there is room.
#[derive(Default)]
struct Socket {
    room: usize,
    writes: Vec<Vec<u8>>,
    broken: bool,
    shut: bool,
    arriving: VecDeque<Vec<u8>>,
    reads: usize,
}

#[derive(Clone)]
struct Shared(Rc<RefCell<Socket>>);

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut socket = self.0.borrow_mut();
        socket.reads += 1;
        let Some(bytes) = socket.arriving.pop_front() else {
            return Poll::Pending;
        };
        let fits = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..fits]);
        if fits < bytes.len() {
            socket.arriving.push_front(bytes[fits..].to_vec());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut socket = self.0.borrow_mut();
        if socket.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if socket.room == 0 {
            return Poll::Pending;
        }
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        bytes.truncate(socket.room);
        socket.room -= bytes.len();
        let taken = bytes.len();
        socket.writes.push(bytes);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}

fn socket(room: usize) -> (Shared, Batched<Shared>, Outbox<Shared>) {
    let shared = Shared(Rc::new(RefCell::new(Socket {
        room,
        ..Socket::default()
    })));
    let (stream, outbox) = batched(shared.clone(), Guard::blind());
    (shared, stream, outbox)
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn write(stream: &mut Batched<Shared>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(stream).poll_write(&mut cx(), bytes)
}

fn taken(polled: Poll<io::Result<usize>>) -> Option<usize> {
    match polled {
        Poll::Ready(taken) => Some(taken.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn small_writes_of_a_turn_are_one_write_to_the_socket() {
    let (shared, mut stream, outbox) = socket(usize::MAX);
    for part in [&b"one "[..], b"two ", b"three"] {
        assert_eq!(taken(write(&mut stream, part)), Some(part.len()));
    }
    assert!(Pin::new(&mut stream).poll_flush(&mut cx()).is_ready());
    assert!(shared.0.borrow().writes.is_empty());
    outbox.send(&mut cx());
    outbox.send(&mut cx());
    assert_eq!(shared.0.borrow().writes, [b"one two three".to_vec()]);
}

#[test]
fn a_large_write_goes_out_at_once_behind_what_was_gathered() {
    let (shared, mut stream, _outbox) = socket(usize::MAX);
    let large = vec![7; LARGE];
    assert_eq!(taken(write(&mut stream, b"head")), Some(4));
    assert_eq!(taken(write(&mut stream, &large)), Some(LARGE));
    let expected = [b"head", &large[..]].concat();
    assert_eq!(shared.0.borrow().writes, [expected]);
}

#[test]
fn a_large_write_that_the_socket_takes_in_part_is_reported_in_part() {
    let (shared, mut stream, outbox) = socket(4 + 100);
    let large = vec![7; LARGE];
    assert_eq!(taken(write(&mut stream, b"head")), Some(4));
    assert_eq!(taken(write(&mut stream, &large)), Some(100));
    assert_eq!(taken(write(&mut stream, &large)), None);
    assert_eq!(taken(write(&mut stream, b"tail")), Some(4));
    shared.0.borrow_mut().room = 1000;
    outbox.send(&mut cx());
    assert_eq!(shared.0.borrow().writes.last().unwrap(), b"tail");
}

#[test]
fn a_large_write_waits_while_what_was_gathered_is_taken_in_part() {
    let (shared, mut stream, outbox) = socket(3);
    assert_eq!(taken(write(&mut stream, b"head")), Some(4));
    assert_eq!(taken(write(&mut stream, &[7; LARGE])), None);
    assert_eq!(shared.0.borrow().writes, [b"hea".to_vec()]);
    shared.0.borrow_mut().room = 10;
    outbox.send(&mut cx());
    assert_eq!(shared.0.borrow().writes[1], b"d");
}

#[test]
fn a_full_socket_holds_the_writer_back_at_the_bound_and_nothing_is_lost() {
    let (shared, mut stream, outbox) = socket(0);
    let mut accepted = Vec::new();
    for number in 0_u32.. {
        let part = number.to_be_bytes().repeat(250);
        match taken(write(&mut stream, &part)) {
            Some(all) => accepted.extend_from_slice(&part[..all]),
            None => break,
        }
        assert!(accepted.len() <= BUFFER);
    }
    assert!(accepted.len() > BUFFER - 1000);
    outbox.send(&mut cx());
    shared.0.borrow_mut().room = 10_000;
    outbox.send(&mut cx());
    shared.0.borrow_mut().room = usize::MAX;
    assert_eq!(taken(write(&mut stream, &[1; 1000])), Some(1000));
    outbox.send(&mut cx());
    accepted.extend_from_slice(&[1; 1000]);
    assert_eq!(shared.0.borrow().writes.concat(), accepted);
}

#[test]
fn a_failed_send_wakes_the_task_and_is_told_when_all_is_read() {
    let (shared, mut stream, outbox) = socket(usize::MAX);
    let woken = std::sync::Arc::new(Woken::default());
    let waker = Waker::from(std::sync::Arc::clone(&woken));
    shared.0.borrow_mut().broken = true;
    assert_eq!(taken(write(&mut stream, b"lost")), Some(4));
    outbox.send(&mut Context::from_waker(&waker));
    assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
    assert!(Pin::new(&mut stream).poll_flush(&mut cx()).is_ready());
    assert_eq!(taken(write(&mut stream, &[0; LARGE])), Some(LARGE));
    let mut buffer = [0; 16];
    let mut read = |stream: &mut Batched<Shared>| {
        let mut into = ReadBuf::new(&mut buffer);
        let polled = Pin::new(stream).poll_read(&mut cx(), &mut into);
        polled.map_ok(|()| into.filled().len())
    };
    assert!(read(&mut stream).is_pending());
    let arriving = [b"told before".to_vec(), Vec::new()];
    shared.0.borrow_mut().arriving.extend(arriving);
    assert!(matches!(read(&mut stream), Poll::Ready(Ok(11))));
    let Poll::Ready(Err(error)) = read(&mut stream) else {
        panic!("the read tells the error");
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn shutdown_sends_the_rest_first() {
    let (shared, mut stream, _outbox) = socket(2);
    assert_eq!(taken(write(&mut stream, b"last")), Some(4));
    assert!(Pin::new(&mut stream).poll_shutdown(&mut cx()).is_pending());
    assert!(!shared.0.borrow().shut);
    shared.0.borrow_mut().room = 2;
    assert!(Pin::new(&mut stream).poll_shutdown(&mut cx()).is_ready());
    assert!(shared.0.borrow().shut);
    assert_eq!(shared.0.borrow().writes.concat(), b"last");
}

#[test]
fn an_idle_connection_holds_no_buffer_and_a_thread_keeps_few() {
    let (_, mut stream, outbox) = socket(usize::MAX);
    assert_eq!(taken(write(&mut stream, b"some")), Some(4));
    assert!(outbox.0.borrow().unsent.buffer.is_some());
    outbox.send(&mut cx());
    assert!(outbox.0.borrow().unsent.buffer.is_none());
    let many: Vec<_> = (0..SPARE + 4)
        .map(|_| {
            let (_, mut stream, outbox) = socket(0);
            assert_eq!(taken(write(&mut stream, b"some")), Some(4));
            (stream, outbox)
        })
        .collect();
    drop(many);
    assert_eq!(SPARES.with_borrow(Vec::len), SPARE);
}

#[test]
fn many_small_messages_are_read_from_the_socket_at_once() {
    let (shared, mut stream, outbox) = socket(0);
    shared.0.borrow_mut().arriving.push_back(vec![5; 30_000]);
    let mut read = 0;
    loop {
        let mut some = [0; 1000];
        let mut buf = ReadBuf::new(&mut some);
        if Pin::new(&mut stream)
            .poll_read(&mut cx(), &mut buf)
            .is_pending()
        {
            break;
        }
        assert!(buf.filled().iter().all(|byte| *byte == 5));
        read += buf.filled().len();
    }
    assert_eq!((read, shared.0.borrow().reads), (30_000, 2));
    // To the end of the turn it is known what was read.
    outbox.send(&mut cx());
    assert!(stream.0.borrow().read.buffer.is_none());
}

#[test]
fn a_real_socket_pair_carries_everything_both_ways() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let (mut stream, outbox) = batched(ours, Guard::blind());
        let sent: Vec<u8> = (0..3_000_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let writing = async {
            for (index, part) in sent.chunks(777).enumerate() {
                let mut turn = std::pin::pin!(stream.write_all(part));
                poll_fn(|cx| {
                    let polled = turn.as_mut().poll(cx);
                    if index % 5 == 0 {
                        outbox.send(cx);
                    }
                    polled
                })
                .await
                .unwrap();
            }
            stream.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(writing, theirs.read_to_end(&mut received));
        read.unwrap();
        assert!(received == sent);
        let answer = async {
            theirs.write_all(&sent).await.unwrap();
            drop(theirs);
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(answer, stream.read_to_end(&mut received));
        read.unwrap();
        assert!(received == sent);
    });
}
