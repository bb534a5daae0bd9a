//! The replayable request body: attempts begin and read while the client still sends, and each that ends has seen all of it.
//!
//! The input is text: on the first line `chunked` or `length`, the lengths of the pieces that the client sends, and `+n` for n
//! trailers; then a letter for each step.

use std::io;

use outrigger_proxy::fuzzing::{Length, Polled, Replaying};

/// Steps in one run.
const MAX_STEPS: usize = 256;
/// The longest piece, in bytes; four of them are more than is kept.
const MAX_PIECE: usize = 20_000;

/// What the client sends.
struct Sent {
    data: Vec<u8>,
    trailers: usize,
    chunked: bool,
    wire: Vec<u8>,
}

/// One attempt so far.
#[derive(Default)]
struct Seen {
    data: Vec<u8>,
    trailers: usize,
    /// When it began, the whole body could be had.
    whole: bool,
}

/// Runs one schedule.
pub fn check(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let sent = Sent::new(lines.next().unwrap_or_default());
    run(&sent, lines.next().unwrap_or_default()).expect("socket pairs can be made");
}

fn run(sent: &Sent, steps: &[u8]) -> io::Result<()> {
    let length = match sent.chunked {
        true => Length::Chunked,
        false => Length::Bytes(sent.data.len() as u64),
    };
    let mut body = Replaying::new(length)?;
    let (mut rest, mut attempts) = (&sent.wire[..], Vec::<Seen>::new());
    // At the end all of it is sent, and the newest attempt reads it.
    let last = b"a".iter().chain(b"*pp".iter().cycle().take(128));
    for step in steps.iter().take(MAX_STEPS).chain(last) {
        match step {
            b's' | b'S' | b'L' | b'*' => {
                let most = match step {
                    b's' => 1,
                    b'S' => 100,
                    b'L' => 10_000,
                    _ => rest.len(),
                };
                let took = body.send(&rest[..most.min(rest.len())])?;
                rest = &rest[took..];
            }
            b'c' => body.close(),
            b'a' => {
                let whole = body.attempt() || attempts.is_empty();
                attempts.push(Seen {
                    whole,
                    ..Seen::default()
                });
            }
            b'p' | b'o' if !attempts.is_empty() => {
                let newest = attempts.len() - 1;
                let number = newest.saturating_sub(usize::from(*step == b'o'));
                look(sent, &mut body, &mut attempts[number], number, newest);
            }
            _ => {}
        }
    }
    Ok(())
}

/// One look at an attempt's body.
fn look(sent: &Sent, body: &mut Replaying, seen: &mut Seen, number: usize, newest: usize) {
    let (is_end, length) = body.says(number);
    let polled = body.poll(number);
    if !seen.whole {
        return;
    }
    if is_end && number == newest {
        assert_eq!(polled, Polled::End, "it said that it was at its end");
    }
    match polled {
        Polled::Data(data) => {
            seen.data.extend_from_slice(&data);
            assert!(sent.data.starts_with(&seen.data), "not what was sent");
        }
        Polled::Trailers(fields) => seen.trailers += fields.len(),
        Polled::End => {
            assert_eq!(seen.data.len(), sent.data.len(), "it ended early");
            assert_eq!(seen.trailers, sent.trailers);
            let all = Some(sent.data.len() as u64);
            assert!(
                length.is_none() || length == all,
                "{length:?} instead of {all:?}"
            );
        }
        Polled::Pending | Polled::Failed => {}
    }
}

impl Sent {
    fn new(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let chunked = words.next() == Some("chunked");
        let (mut data, mut wire, mut trailers) = (Vec::new(), Vec::new(), 0);
        for word in words.take(8) {
            if let Some(count) = word.strip_prefix('+') {
                trailers = count.parse::<usize>().unwrap_or(0).min(8);
            }
            let length = word.parse::<usize>().unwrap_or(0).min(MAX_PIECE);
            if length == 0 || word.starts_with('+') {
                continue;
            }
            let piece: Vec<u8> = (data.len()..data.len() + length)
                .map(|at| (at % 251) as u8)
                .collect();
            data.extend_from_slice(&piece);
            if chunked {
                wire.extend_from_slice(format!("{length:x}\r\n").as_bytes());
            }
            wire.extend_from_slice(&piece);
            if chunked {
                wire.extend_from_slice(b"\r\n");
            }
        }
        if chunked {
            wire.extend_from_slice(b"0\r\n");
            for number in 0..trailers {
                wire.extend_from_slice(format!("x-{number}: {number}\r\n").as_bytes());
            }
            wire.extend_from_slice(b"\r\n");
        }
        Self {
            data,
            trailers: if chunked { trailers } else { 0 },
            chunked,
            wire,
        }
    }
}
