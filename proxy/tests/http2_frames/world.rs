//! The sidecar as a process, an HTTP/1.1 application behind it that remembers what reached it, and a place for HTTP/2 endpoints.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::wire::{Conn, DATA, END_HEADERS, END_STREAM, HEADERS, PATIENCE, WHOLE, frame, request};

/// Bytes of an ordinary answer.
pub(crate) const BODY: usize = 64;
/// Bytes of the answer to `/large`.
pub(crate) const LARGE: usize = 1_000_000;

/// One request as the application got it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
    /// It came to its end.
    pub(crate) whole: bool,
}

/// What all cases share.
pub(crate) struct World {
    process: Child,
    /// Clients connect here; behind it is the application.
    pub(crate) listener: SocketAddr,
    admin: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// One for each case that plays an endpoint.
    stages: Mutex<Vec<Stage>>,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.process.kill().expect("the child is ours to kill");
        self.process.wait().expect("a killed child ends");
    }
}

/// A listener of the sidecar and the HTTP/2 endpoint behind it, played by a case.
pub(crate) struct Stage {
    pub(crate) listener: SocketAddr,
    endpoint: TcpListener,
}

impl Stage {
    /// The connection that the sidecar makes next, greeted.
    pub(crate) fn accept(&self) -> Conn {
        let mut conn = self.accept_silently();
        conn.welcome(&[]);
        conn
    }

    /// The same before a byte was written.
    pub(crate) fn accept_silently(&self) -> Conn {
        Conn::of(self.endpoint.accept().expect("the sidecar connects").0)
    }

    /// What an HTTP/1.1 client is answered, as a thread.
    pub(crate) fn ask(&self, request: &str) -> std::thread::JoinHandle<String> {
        let mut stream = TcpStream::connect(self.listener).expect("the listener is bound");
        stream
            .write_all(request.as_bytes())
            .expect("it fits the socket");
        std::thread::spawn(move || read_all(stream))
    }

    /// A client that asks and then reads nothing.
    pub(crate) fn silent(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.listener).expect("the listener is bound");
        let request = b"GET / HTTP/1.1\r\nhost: app\r\n\r\n";
        stream.write_all(request).expect("it fits the socket");
        stream
    }

    /// The same for a GET.
    pub(crate) fn get(&self) -> std::thread::JoinHandle<String> {
        self.ask("GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n")
    }
}

pub(crate) fn read_all(mut stream: TcpStream) -> String {
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A port that was free a moment ago.
fn free(host: [u8; 4]) -> SocketAddr {
    let probe = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    probe.local_addr().expect("a bound socket has an address")
}

impl World {
    /// `direction` is that of the listener; `stages` is how many cases play an endpoint.
    pub(crate) fn start(direction: &str, stages: usize) -> Self {
        let seen = Arc::default();
        let origin = application(Arc::clone(&seen));
        let listener = free([127, 62, 0, 2]);
        let mut text = format!(
            "[[cluster]]\nname = \"app\"\nprotocol = \"http\"\nretries = 0\nendpoints = [{{ address = \"{origin}\" }}]\n\
             [[listener]]\nname = \"in\"\ndirection = \"{direction}\"\naddress = \"{listener}\"\nprotocol = \"http\"\n\
             cluster = \"app\"\n"
        );
        let mut set = Vec::new();
        for stage in 0..stages {
            let host = [127, 62, 1 + (stage / 200) as u8, 1 + (stage % 200) as u8];
            let endpoint =
                TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
            let patience = socket2::SockRef::from(&endpoint).set_read_timeout(Some(PATIENCE));
            patience.expect("a timeout can be set");
            let address = endpoint
                .local_addr()
                .expect("a bound socket has an address");
            let listener = free([127, 63, host[2], host[3]]);
            text += &format!(
                "[[cluster]]\nname = \"up{stage}\"\nprotocol = \"http2\"\nretries = 0\nendpoints = [{{ address = \"{address}\" }}]\n\
                 [[listener]]\nname = \"up{stage}\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"http\"\n\
                 cluster = \"up{stage}\"\n"
            );
            set.push(Stage { listener, endpoint });
        }
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let file = dir.path().join("static.toml");
        std::fs::write(&file, text).expect("the folder is ours");
        let (process, admin) = spawn(&file);
        let world = Self {
            process,
            listener,
            admin,
            seen,
            stages: Mutex::new(set),
            _dir: dir,
        };
        let start = Instant::now();
        while !world.page("/ready").starts_with("HTTP/1.1 200") {
            assert!(start.elapsed() < PATIENCE, "the sidecar is not ready");
        }
        world
    }

    pub(crate) fn stage(&self) -> Stage {
        let mut stages = self.stages.lock().expect("no case panics with the lock");
        stages.pop().expect("there is a stage for each case")
    }

    pub(crate) fn page(&self, path: &str) -> String {
        self.admin(&format!("GET {path}"))
    }

    /// Has the sidecar drain, and waits until it has begun.
    pub(crate) fn drain(&self) {
        self.admin("POST /drain");
        self.until("/ready", "\"draining\":true");
    }

    /// Asks for a page until it has this text.
    pub(crate) fn until(&self, path: &str, text: &str) {
        let start = Instant::now();
        while !self.page(path).contains(text) {
            assert!(start.elapsed() < PATIENCE, "no {text} on {path}");
        }
    }

    fn admin(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("the admin page is bound");
        let request =
            format!("{line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .expect("it fits the socket");
        read_all(stream)
    }

    /// Bytes of memory that the sidecar holds.
    pub(crate) fn memory(&self) -> usize {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<usize>().ok());
        kilobytes.expect("the kernel tells") * 1024
    }

    /// Errors that a listener has counted with a flag.
    pub(crate) fn errors(&self, flag: &str) -> u64 {
        let page = self.page("/metrics");
        let flag = format!("flag=\"{flag}\"");
        let lines = page
            .lines()
            .filter(|line| line.starts_with("outrigger_errors") && line.contains(&flag));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        counts.sum()
    }

    /// Requests that have reached the application, all of them.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .expect("the application does not panic")
            .clone()
    }

    /// Requests for `path` that have reached the application.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.seen.lock().expect("the application does not panic");
        let wanted = |one: &&Seen| one.head.split(' ').nth(1) == Some(path);
        seen.iter().filter(wanted).cloned().collect()
    }

    /// A connection of a client, greeted.
    pub(crate) fn client(&self) -> Conn {
        self.client_with(&[])
    }

    pub(crate) fn client_with(&self, settings: &[(u16, u32)]) -> Conn {
        let mut conn = Conn::connect(self.listener);
        conn.greet(settings);
        conn
    }

    /// A client that has nothing to do with the others is served.
    pub(crate) fn serves_others(&self) {
        let mut other = self.client();
        answered(&mut other, 1);
    }
}

/// Sends a GET on the stream and reads its whole answer.
pub(crate) fn answered(conn: &mut Conn, stream: u32) {
    conn.send(&frame(HEADERS, WHOLE, stream, &request("GET", "/", &[])));
    let head = conn.find("an answer", |frame| {
        frame.kind == HEADERS && frame.stream == stream
    });
    if conn.status_of(&head) != 200 {
        let why = conn.find("why", |frame| frame.kind == DATA && frame.stream == stream);
        panic!("{}", String::from_utf8_lossy(&why.payload));
    }
    if !head.has(END_STREAM) {
        conn.find("its end", |frame| frame.stream == stream && frame.ends());
    }
}

/// The status of the answer on the stream.
pub(crate) fn status(conn: &mut Conn, stream: u32) -> u16 {
    let head = conn.find("an answer", |frame| {
        frame.kind == HEADERS && frame.stream == stream && frame.has(END_HEADERS)
    });
    conn.status_of(&head)
}

fn spawn(file: &std::path::Path) -> (Child, SocketAddr) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy"))
        .arg("--static")
        .arg(file)
        .args(["--admin", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    let stdout = process.stdout.take().expect("standard output is piped");
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    read.expect("the sidecar says where its admin page is");
    let admin = line
        .trim()
        .rsplit('/')
        .next()
        .and_then(|address| address.parse().ok());
    (process, admin.expect("the line ends in the address"))
}

/// Answers as the path says, on every connection.
fn application(seen: Arc<Mutex<Vec<Seen>>>) -> SocketAddr {
    let socket = TcpListener::bind("127.62.0.1:0").expect("loopback can be bound");
    // More connections may wait than the library lets: a flood's requests are many at once before it ends.
    let listening = socket2::SockRef::from(&socket).listen(4096);
    listening.expect("a bound socket listens");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || while serve(&stream, &seen).is_some() {});
        }
    });
    address
}

/// One request and its answer; `None` when the connection is over.
fn serve(mut stream: &TcpStream, seen: &Mutex<Vec<Seen>>) -> Option<()> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let length = lower.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    let place = {
        let mut seen = seen.lock().ok()?;
        seen.push(Seen {
            head: head.clone(),
            body: Vec::new(),
            trailers: String::new(),
            whole: false,
        });
        seen.len() - 1
    };
    if head.starts_with("POST /echo ") {
        return echo(&mut reader, stream);
    }
    let mut body = vec![0; length.unwrap_or(0)];
    let mut trailers = String::new();
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let chunk = chunk(&mut reader, &mut trailers)?;
            if chunk.is_empty() {
                break;
            }
            body.extend(chunk);
        }
    } else {
        reader.read_exact(&mut body).ok()?;
    }
    {
        let mut seen = seen.lock().ok()?;
        seen[place].body = body;
        seen[place].trailers = trailers;
        seen[place].whole = true;
    }
    let answer = match head.split(' ').nth(1)? {
        "/wait" => {
            let _ = reader.read_line(&mut head);
            return None;
        }
        "/large" => content(LARGE),
        _ => content(BODY),
    };
    stream.write_all(&answer).ok()
}

/// Answers each chunk with one as it comes.
fn echo(reader: &mut impl BufRead, mut stream: &TcpStream) -> Option<()> {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).ok()?;
    loop {
        let chunk = chunk(reader, &mut String::new())?;
        let size = format!("{:x}\r\n", chunk.len());
        let back = [size.as_bytes(), &chunk, b"\r\n"].concat();
        stream.write_all(&back).ok()?;
        if chunk.is_empty() {
            return Some(());
        }
    }
}

fn content(length: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), &vec![b'x'; length]].concat()
}

/// One chunk; empty at the end of the body, when the trailers are read, too.
fn chunk(reader: &mut impl BufRead, trailers: &mut String) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let length = usize::from_str_radix(line.trim(), 16).ok()?;
    if length == 0 {
        while reader.read_line(trailers).ok()? > 2 {}
        return Some(Vec::new());
    }
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).ok()?;
    chunk.truncate(length);
    Some(chunk)
}
