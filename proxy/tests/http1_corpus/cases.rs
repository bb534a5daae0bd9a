//! What a case says: raw bytes, where they are written of, and what must come of them.

use std::borrow::Cow;

/// Bytes of a case.
#[derive(Clone, Copy)]
pub(crate) enum Raw {
    Bytes(&'static [u8]),
    /// Too many to be written down.
    Made(fn() -> Vec<u8>),
}

impl Raw {
    pub(crate) fn get(self) -> Cow<'static, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Made(make) => Cow::Owned(make()),
        }
    }
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request goes by the same one.
    Open,
    /// The sidecar closes it.
    Closed,
}

/// What a client sends.
pub(crate) struct Request {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    pub(crate) sends: Raw,
    /// The client sends no more after it.
    pub(crate) half_closed: bool,
    /// The status codes it gets, in order.
    pub(crate) answers: &'static [u16],
    /// What reaches the task, byte for byte; `{task}` stands for its address.
    pub(crate) task_sees: Raw,
    /// Only a part of that, for it broke off.
    pub(crate) cut: bool,
    pub(crate) after: After,
}

/// Refused with that status; not one byte reaches the task.
pub(crate) const fn refused(
    name: &'static str,
    source: &'static str,
    status: &'static [u16; 1],
    sends: &'static [u8],
) -> Request {
    Request {
        name,
        source,
        sends: Raw::Bytes(sends),
        half_closed: false,
        answers: status,
        task_sees: Raw::Bytes(b""),
        cut: false,
        after: After::Closed,
    }
}

/// Answered by the task, which sees just the same.
pub(crate) const fn same(name: &'static str, source: &'static str, both: &'static [u8]) -> Request {
    passed(name, source, both, both)
}

/// Answered by the task, which sees `task_sees`.
pub(crate) const fn passed(
    name: &'static str,
    source: &'static str,
    sends: &'static [u8],
    task_sees: &'static [u8],
) -> Request {
    Request {
        name,
        source,
        sends: Raw::Bytes(sends),
        half_closed: false,
        answers: &[200],
        task_sees: Raw::Bytes(task_sees),
        cut: false,
        after: After::Open,
    }
}

impl Request {
    /// With bytes that are made.
    pub(crate) const fn made(self, sends: fn() -> Vec<u8>) -> Self {
        Self {
            sends: Raw::Made(sends),
            ..self
        }
    }

    /// With such bytes, which pass as they came.
    pub(crate) const fn made_same(self, both: fn() -> Vec<u8>) -> Self {
        Self {
            sends: Raw::Made(both),
            task_sees: Raw::Made(both),
            ..self
        }
    }

    pub(crate) const fn answers(self, answers: &'static [u16]) -> Self {
        Self { answers, ..self }
    }

    pub(crate) const fn closes(self) -> Self {
        Self {
            after: After::Closed,
            ..self
        }
    }

    pub(crate) const fn half_closed(self) -> Self {
        Self {
            half_closed: true,
            ..self
        }
    }
}

/// A step of a task's.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Send(Raw),
    /// Waits until the client has a response's head.
    Read,
    /// Sends bytes and, in the same segment, that no more come.
    Last(&'static [u8]),
    Close,
    Reset,
}

/// What a client sees of a response.
pub(crate) enum Verdict {
    /// 502 with the flag UPE, which is counted; the connection to the task is not used again.
    BadGateway { after: After },
    /// 502 with the flag UC.
    Unanswered,
    /// Just these bytes.
    Passed {
        bytes: Raw,
        after: After,
        /// The connection to the task is used again.
        reused: bool,
        /// The flag that is counted all the same.
        flag: Option<&'static str>,
    },
    /// These bytes, and then visibly no more; the flag is counted.
    Broken {
        bytes: &'static [u8],
        flag: &'static str,
    },
}

/// What a task answers.
pub(crate) struct Response {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    /// The request it answers.
    pub(crate) request: &'static [u8],
    pub(crate) task: &'static [Step],
    /// The task does not wait for the request's body.
    pub(crate) early: bool,
    /// How often the sidecar may try again. The task answers later attempts as it answers any request.
    pub(crate) retries: u32,
    pub(crate) verdict: Verdict,
}

impl Response {
    /// Whether another attempt makes it good.
    pub(crate) fn is_repeated(&self) -> bool {
        self.retries > 0 && matches!(self.verdict, Verdict::Passed { flag: None, .. })
    }
}

/// What a task answers that has no script for it.
pub(crate) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(crate) const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

/// To a GET: nothing of it reaches the client.
pub(crate) const fn bad(
    name: &'static str,
    source: &'static str,
    task: &'static [Step],
) -> Response {
    Response {
        name,
        source,
        request: GET,
        task,
        early: false,
        retries: 0,
        verdict: Verdict::BadGateway { after: After::Open },
    }
}

/// To a GET: the client sees these bytes, and both connections are used again.
pub(crate) const fn seen(
    name: &'static str,
    source: &'static str,
    task: &'static [Step],
    bytes: &'static [u8],
) -> Response {
    Response {
        name,
        source,
        request: GET,
        task,
        early: false,
        retries: 0,
        verdict: Verdict::Passed {
            bytes: Raw::Bytes(bytes),
            after: After::Open,
            reused: true,
            flag: None,
        },
    }
}

/// To a GET: the client sees these bytes and that they are not all.
pub(crate) const fn broken(
    name: &'static str,
    source: &'static str,
    task: &'static [Step],
    bytes: &'static [u8],
    flag: &'static str,
) -> Response {
    Response {
        name,
        source,
        request: GET,
        task,
        early: false,
        retries: 0,
        verdict: Verdict::Broken { bytes, flag },
    }
}

/// Bytes of a task's.
pub(crate) const fn send(bytes: &'static [u8]) -> Step {
    Step::Send(Raw::Bytes(bytes))
}

impl Response {
    pub(crate) const fn to(self, request: &'static [u8]) -> Self {
        Self { request, ..self }
    }

    pub(crate) const fn early(self) -> Self {
        Self {
            early: true,
            ..self
        }
    }

    pub(crate) const fn retried(self) -> Self {
        Self { retries: 1, ..self }
    }

    pub(crate) const fn unavailable(self) -> Self {
        Self {
            verdict: Verdict::Unanswered,
            ..self
        }
    }

    /// The connection to the task is not used again.
    pub(crate) const fn not_reused(self) -> Self {
        let (bytes, after, flag) = self.as_passed();
        Self {
            verdict: Verdict::Passed {
                bytes,
                after,
                reused: false,
                flag,
            },
            ..self
        }
    }

    /// The client's connection is closed.
    pub(crate) const fn closes(self) -> Self {
        let (bytes, _, flag) = self.as_passed();
        let reused = matches!(self.verdict, Verdict::Passed { reused: true, .. });
        Self {
            verdict: Verdict::Passed {
                bytes,
                after: After::Closed,
                reused,
                flag,
            },
            ..self
        }
    }

    /// The connection to the task is not used again, and the flag is counted.
    pub(crate) const fn flagged(self, flag: &'static str) -> Self {
        let (bytes, after, _) = self.as_passed();
        Self {
            verdict: Verdict::Passed {
                bytes,
                after,
                reused: false,
                flag: Some(flag),
            },
            ..self
        }
    }

    /// The client's connection is closed after the 502.
    pub(crate) const fn then_closes(self) -> Self {
        let after = After::Closed;
        Self {
            verdict: Verdict::BadGateway { after },
            ..self
        }
    }

    /// Passes what is made as it came.
    pub(crate) const fn made_same(self, bytes: fn() -> Vec<u8>) -> Self {
        let (_, after, flag) = self.as_passed();
        Self {
            verdict: Verdict::Passed {
                bytes: Raw::Made(bytes),
                after,
                reused: true,
                flag,
            },
            ..self
        }
    }

    const fn as_passed(&self) -> (Raw, After, Option<&'static str>) {
        match self.verdict {
            Verdict::Passed {
                bytes, after, flag, ..
            } => (bytes, after, flag),
            _ => panic!("only a response that passes has it"),
        }
    }
}
