//! A task that keeps every byte it is sent, and answers as a case has it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cases::{ANSWER, Step};
use crate::common::PATIENCE;

/// The request every case ends with, and its answer.
pub(crate) const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n";
pub(crate) const PROBED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nprobed";
/// [`ANSWER`] to a HEAD.
const ANSWER_TO_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

/// One connection: what was received, message by message, the last maybe in part.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) messages: Vec<Vec<u8>>,
}

impl Heard {
    pub(crate) fn was_probed(&self) -> bool {
        self.messages.iter().any(|message| message == PROBE)
    }
}

/// A task that is running.
pub(crate) struct Application {
    address: SocketAddr,
    task: Arc<Task>,
    accepting: JoinHandle<Vec<Heard>>,
    /// The client has seen a head.
    read: Sender<()>,
    /// The script has been acted through.
    acted: Receiver<()>,
}

/// What its connections share.
struct Task {
    script: Option<Script>,
    begun: AtomicBool,
    ending: AtomicBool,
    read: Mutex<Receiver<()>>,
    acted: Sender<()>,
}

/// What one does when asked for anything but the probe.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    pub(crate) steps: &'static [Step],
    /// It does not wait for a request's body.
    pub(crate) early: bool,
}

impl Application {
    /// The script is for the first request that is not the probe; all others are answered.
    pub(crate) fn start(address: SocketAddr, script: Option<Script>) -> Self {
        let socket = TcpListener::bind(address).expect("nobody else has the address");
        let (read, told) = channel();
        let (act, acted) = channel();
        let task = Arc::new(Task {
            script,
            begun: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            read: Mutex::new(told),
            acted: act,
        });
        let serving = Arc::clone(&task);
        let accepting = std::thread::spawn(move || accept(&socket, &serving));
        Self {
            address,
            task,
            accepting,
            read,
            acted,
        }
    }

    /// The client has seen a head.
    pub(crate) fn client_has_read(&self) {
        // Nobody waits for it in most cases.
        let _ = self.read.send(());
    }

    /// Waits until the script has been acted through.
    pub(crate) fn has_acted(&self) -> bool {
        self.acted.recv_timeout(PATIENCE).is_ok()
    }

    /// Everything it received on each connection. What was sent before is in its kernel's buffers and is all heard.
    pub(crate) fn end(self) -> Vec<Heard> {
        self.task.ending.store(true, Ordering::SeqCst);
        drop(self.read);
        drop(TcpStream::connect(self.address));
        self.accepting.join().expect("the task does not panic")
    }
}

fn accept(socket: &TcpListener, task: &Arc<Task>) -> Vec<Heard> {
    let mut connections = Vec::new();
    // The last connection only ends the wait, but others may be queued before it.
    while let Ok((stream, _)) = socket.accept() {
        stream.set_nonblocking(false).expect("it is a socket");
        let handle = stream.try_clone().expect("a socket can be cloned");
        let handle = Arc::new(Mutex::new(Some(handle)));
        let (serving, other) = (Arc::clone(task), Arc::clone(&handle));
        let serving = std::thread::spawn(move || serve(stream, &serving, &other));
        connections.push((handle, serving));
        if task.ending.load(Ordering::SeqCst) {
            socket.set_nonblocking(true).expect("it is a socket");
        }
    }
    let heard = connections.into_iter().map(|(handle, serving)| {
        if let Some(stream) = lock(&handle).take() {
            // What has come can still be read; then the reader sees the end.
            let _ = stream.shutdown(Shutdown::Read);
        }
        serving.join().expect("the task does not panic")
    });
    heard.collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `other` is the socket's second handle.
fn serve(mut stream: TcpStream, task: &Task, other: &Mutex<Option<TcpStream>>) -> Heard {
    let patience = Some(PATIENCE);
    stream
        .set_read_timeout(patience)
        .expect("a timeout can be set");
    let early = task.script.is_some_and(|script| script.early);
    let (mut heard, mut buffer) = (Heard::default(), Vec::new());
    loop {
        let (message, more) = receive(&mut stream, &mut buffer, early);
        if !message.is_empty() {
            heard.messages.push(message);
        }
        if !more {
            return heard;
        }
        let message = heard.messages.last().map_or(&b""[..], Vec::as_slice);
        let script = task
            .script
            .filter(|_| message != PROBE && !task.begun.swap(true, Ordering::SeqCst));
        let end = match script {
            Some(script) => act(&mut stream, script.steps, &task.read),
            None if message == PROBE => written(&mut stream, PROBED),
            None if message.starts_with(b"HEAD ") => written(&mut stream, ANSWER_TO_HEAD),
            None => written(&mut stream, ANSWER),
        };
        if end == End::Reset {
            // A socket is reset when its last handle goes.
            *lock(other) = None;
            drop(stream);
            let _ = task.acted.send(());
            return heard;
        }
        let _ = task.acted.send(());
        if end == End::Closed {
            // What is still sent to it counts as received.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            buffer.extend(rest);
            if !buffer.is_empty() {
                heard.messages.push(buffer);
            }
            return heard;
        }
    }
}

/// One whole request, or its head where that is enough, or what there is of it, and whether it is whole.
fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>, early: bool) -> (Vec<u8>, bool) {
    loop {
        let end = if early {
            find(buffer, b"\r\n\r\n").map(|end| end + 4)
        } else {
            whole(buffer)
        };
        if let Some(length) = end {
            let rest = buffer.split_off(length);
            return (std::mem::replace(buffer, rest), true);
        }
        let mut space = [0; 16 * 1024];
        match stream.read(&mut space) {
            Ok(0) | Err(_) => return (std::mem::take(buffer), false),
            Ok(read) => buffer.extend_from_slice(&space[..read]),
        }
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

/// Where the message at the start ends.
fn whole(bytes: &[u8]) -> Option<usize> {
    let body = find(bytes, b"\r\n\r\n")? + 4;
    let head = bytes[..body].to_ascii_lowercase();
    let after = |name: &[u8]| find(&head, name).map(|at| &head[at + name.len()..]);
    if after(b"\r\ntransfer-encoding: chunked\r\n").is_some() {
        return Some(body + chunked(&bytes[body..])?);
    }
    let length = after(b"\r\ncontent-length: ").map_or(0, |value| {
        let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
    });
    (bytes.len() >= body + length).then_some(body + length)
}

/// Where a chunked body ends.
fn chunked(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line + 2;
        if size > 0 {
            at += size + 2;
            continue;
        }
        // Trailers, and the empty line.
        loop {
            let line = find(bytes.get(at..)?, b"\r\n")?;
            at += line + 2;
            if line == 0 {
                return Some(at);
            }
        }
    }
}

/// What is left of a connection after an answer.
#[derive(PartialEq, Eq)]
enum End {
    Open,
    Closed,
    Reset,
}

fn written(stream: &mut TcpStream, bytes: &[u8]) -> End {
    match stream.write_all(bytes) {
        Ok(()) => End::Open,
        Err(_) => End::Closed,
    }
}

/// Answers as the case has it.
fn act(stream: &mut TcpStream, script: &[Step], told: &Mutex<Receiver<()>>) -> End {
    for step in script {
        match step {
            Step::Send(bytes) => {
                if written(stream, &bytes.get()) == End::Closed {
                    return End::Closed;
                }
            }
            Step::Read => lock(told)
                .recv_timeout(PATIENCE)
                .expect("the client reads a head"),
            Step::Last(bytes) => {
                // Corked, the bytes wait for the FIN and leave with it.
                let corked = socket2::SockRef::from(&*stream).set_tcp_cork(true);
                corked.expect("a socket can be corked");
                let _ = stream.write_all(bytes);
                let _ = stream.shutdown(Shutdown::Write);
                return End::Closed;
            }
            Step::Close => {
                let _ = stream.shutdown(Shutdown::Write);
                return End::Closed;
            }
            Step::Reset => {
                let socket = socket2::SockRef::from(&*stream);
                let linger = socket.set_linger(Some(Duration::ZERO));
                linger.expect("a socket can be reset");
                return End::Reset;
            }
        }
    }
    End::Open
}
