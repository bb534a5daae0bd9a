//! A client that sends what a case has, and holds what comes back and what reached the task against its verdict.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::application::{Application, Heard, PROBE, PROBED, Script};
use crate::cases::{After, Request, Response, Verdict};
use crate::common::{PATIENCE, Sidecar, connect};

/// Where a case runs: a listener of the sidecar and the task behind it, both its own.
pub(crate) struct Place<'a> {
    pub(crate) counted: Counted<'a>,
    pub(crate) listener: SocketAddr,
    pub(crate) task: SocketAddr,
}

/// Where the errors of a listener are counted.
pub(crate) struct Counted<'a> {
    pub(crate) sidecar: &'a Sidecar,
    pub(crate) metrics: &'a Metrics,
    pub(crate) name: String,
}

/// Bytes as an error shows them.
fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 400;
    let text = bytes[..bytes.len().min(MOST)].escape_ascii().to_string();
    if bytes.len() > MOST {
        format!("\"{text}\"... ({} bytes)", bytes.len())
    } else {
        format!("\"{text}\"")
    }
}

fn same(what: &str, got: &[u8], wanted: &[u8]) -> Result<(), String> {
    if got == wanted {
        return Ok(());
    }
    let (got, wanted) = (shown(got), shown(wanted));
    Err(format!("{what} {got},\n      not {wanted}"))
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    (got == wanted)
        .then_some(())
        .ok_or_else(|| format!("{what}: {got:?}, not {wanted:?}"))
}

/// The client's connection, and what has come of it and is not looked at yet.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(listener: SocketAddr) -> Self {
        Self {
            stream: connect(listener),
            buffer: Vec::new(),
        }
    }

    /// Reads once; false at the end. A reset is an end.
    fn fill(&mut self) -> Result<bool, String> {
        let mut space = [0; 16 * 1024];
        match self.stream.read(&mut space) {
            Ok(read) => {
                self.buffer.extend_from_slice(&space[..read]);
                Ok(read > 0)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(format!("{error} after {}", shown(&self.buffer))),
        }
    }

    /// As many bytes, or all until the end.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < length && self.fill()? {}
        let rest = self.buffer.split_off(length.min(self.buffer.len()));
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn take_all(&mut self) -> Result<Vec<u8>, String> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// One response with a Content-Length: its status, and the whole of it.
    fn answer(&mut self, head_only: bool) -> Result<(u16, Vec<u8>), String> {
        let head = self.head()?;
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = text.get(9..12).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no status in {}", shown(&head)))?;
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .filter(|_| !head_only)
            .unwrap_or(0);
        let mut whole = head;
        whole.extend(self.take(length)?);
        Ok((status, whole))
    }

    fn head(&mut self) -> Result<Vec<u8>, String> {
        let end = loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end;
            }
            if !self.fill()? {
                return Err(format!("ends within a head: {}", shown(&self.buffer)));
            }
        };
        self.take(end + 4)
    }

    /// The connection is as it should be, and the next request is answered by the task, on this connection or on a new one.
    fn probe(mut self, after: After, listener: SocketAddr) -> Result<(), String> {
        if after == After::Closed {
            same(
                "before the end the client gets",
                &self.take_all()?,
                &Vec::new(),
            )?;
            self = Self::open(listener);
        }
        let sent = self.stream.write_all(PROBE);
        sent.map_err(|error| format!("the next request: {error}"))?;
        let answer = self.take(PROBED.len())?;
        same("the next request is answered", &answer, PROBED)
    }
}

/// What reached the task besides the probe.
fn besides_probe(heard: &[Heard]) -> Vec<u8> {
    let messages = heard.iter().flat_map(|heard| &heard.messages);
    let others = messages.filter(|message| *message != PROBE);
    others.flatten().copied().collect()
}

pub(crate) fn request(case: &Request, place: Place<'_>) -> Result<(), String> {
    let application = Application::start(place.task, None);
    let client = talk(case, place.listener);
    let heard = application.end();
    client?;
    let got = besides_probe(&heard);
    let wanted = replaced(&case.task_sees.get(), &place.task.to_string());
    if case.cut {
        let begins = wanted.starts_with(&got) && got.len() < wanted.len();
        return begins
            .then_some(())
            .ok_or_else(|| format!("the task sees {}", shown(&got)));
    }
    same("the task sees", &got, &wanted)
}

fn talk(case: &Request, listener: SocketAddr) -> Result<(), String> {
    let mut client = Connection::open(listener);
    let sends = case.sends.get();
    // A large head may be refused before it is taken.
    let _ = client.stream.write_all(&sends);
    if case.half_closed {
        let _ = client.stream.shutdown(Shutdown::Write);
    }
    for status in case.answers {
        let (got, whole) = client.answer(sends.starts_with(b"HEAD "))?;
        equal("status", got, *status).map_err(|error| format!("{error}: {}", shown(&whole)))?;
        let flagged =
            ["(DPE, ", "(DC, "].map(|flag| String::from_utf8_lossy(&whole).contains(flag));
        if *status != 200 && flagged == [false, false] {
            return Err(format!("no flag in {}", shown(&whole)));
        }
    }
    client.probe(case.after, listener)
}

fn replaced(bytes: &[u8], address: &str) -> Vec<u8> {
    let name = b"{task}";
    match bytes.windows(name.len()).position(|window| window == name) {
        Some(at) => [&bytes[..at], address.as_bytes(), &bytes[at + name.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

pub(crate) fn response(case: &Response, place: Place<'_>) -> Result<(), String> {
    let script = Script {
        steps: case.task,
        early: case.early,
    };
    let application = Application::start(place.task, Some(script));
    let listened = listen(case, place.listener, &application);
    let flag = match &case.verdict {
        Verdict::BadGateway { .. } => Some("UPE"),
        Verdict::Unanswered => Some("UC"),
        Verdict::Passed { flag, .. } => *flag,
        Verdict::Broken { flag, .. } => Some(*flag),
    };
    let counted = listened.and_then(|()| counted(&place.counted, flag));
    let heard = application.end();
    counted?;
    let reused = heard
        .iter()
        .any(|heard| heard.was_probed() && heard.messages.len() > 1);
    let wanted = matches!(case.verdict, Verdict::Passed { reused: true, .. });
    equal("the connection to the task is used again", reused, wanted)
}

fn listen(case: &Response, listener: SocketAddr, application: &Application) -> Result<(), String> {
    let mut client = Connection::open(listener);
    let sent = client.stream.write_all(case.request);
    sent.map_err(|error| error.to_string())?;
    let head_only = case.request.starts_with(b"HEAD ");
    let after = match &case.verdict {
        Verdict::BadGateway { .. } | Verdict::Unanswered => {
            let (status, flag, after) = match case.verdict {
                Verdict::BadGateway { after } => (502, "(UPE", after),
                _ => (502, "(UC", After::Open),
            };
            let mut answer = client.answer(head_only)?;
            while answer.0 < 200 {
                application.client_has_read();
                answer = client.answer(head_only)?;
            }
            let (got, whole) = answer;
            equal("status", got, status).map_err(|error| format!("{error}: {}", shown(&whole)))?;
            if !head_only && !String::from_utf8_lossy(&whole).contains(flag) {
                return Err(format!("no flag in {}", shown(&whole)));
            }
            after
        }
        Verdict::Passed { bytes, after, .. } => {
            let bytes = bytes.get();
            let got = seen(&mut client, application, |client, head| {
                client.take(bytes.len().saturating_sub(head))
            })?;
            same("the client sees", &got, &bytes)?;
            *after
        }
        Verdict::Broken { bytes, .. } => {
            let got = seen(&mut client, application, |client, _| client.take_all())?;
            same("the client sees", &got, bytes)?;
            After::Closed
        }
    };
    if !application.has_acted() {
        return Err("the task has not been asked".to_owned());
    }
    client.probe(after, listener)
}

/// A head, of which the task is told, and what `rest` reads then.
fn seen(
    client: &mut Connection,
    application: &Application,
    rest: impl FnOnce(&mut Connection, usize) -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let mut got = client.head()?;
    application.client_has_read();
    let more = rest(client, got.len())?;
    got.extend(more);
    Ok(got)
}

/// The sidecar's metrics page, which is long with so many listeners: whoever waits for one may share it.
pub(crate) struct Metrics {
    /// When the latest was asked for, and its lines about errors.
    latest: Mutex<(Instant, String)>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            latest: Mutex::new((Instant::now(), String::new())),
        }
    }

    /// One that was asked for after now.
    fn page(&self, sidecar: &Sidecar) -> String {
        let now = Instant::now();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.0 <= now {
            let asked = Instant::now();
            let page = sidecar.page("/metrics");
            let errors = page
                .lines()
                .filter(|line| line.starts_with("outrigger_errors_total{"));
            *latest = (asked, errors.collect::<Vec<_>>().join("\n"));
        }
        latest.1.clone()
    }
}

/// What the sidecar has counted of the listener's errors: one of that flag, or nothing. What is counted at a connection's end may
/// come a moment after its last byte.
fn counted(place: &Counted<'_>, flag: Option<&str>) -> Result<(), String> {
    let start = Instant::now();
    let label = format!("\"{}\"", place.name);
    loop {
        let page = place.metrics.page(place.sidecar);
        let errors: Vec<_> = page.lines().filter(|line| line.contains(&label)).collect();
        let right = match flag {
            None => errors.is_empty(),
            Some(flag) => {
                let flag = format!("flag=\"{flag}\"");
                errors.len() == 1 && errors[0].contains(&flag) && errors[0].ends_with(" 1")
            }
        };
        if right {
            return Ok(());
        }
        if start.elapsed() > PATIENCE / 4 {
            return Err(format!("counted: {errors:?}, not {flag:?}"));
        }
        std::thread::yield_now();
    }
}
