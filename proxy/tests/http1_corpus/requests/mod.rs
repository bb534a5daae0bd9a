//! What clients send.

mod chunked;
mod connection;
mod fields;
mod framing;
mod host;
mod line;
mod target;

use crate::cases::Request;

/// Cases by subject.
pub(crate) const ALL: &[(&str, &[Request])] = &[
    ("line", line::CASES),
    ("target", target::CASES),
    ("host", host::CASES),
    ("fields", fields::CASES),
    ("framing", framing::CASES),
    ("chunked", chunked::CASES),
    ("connection", connection::CASES),
];
