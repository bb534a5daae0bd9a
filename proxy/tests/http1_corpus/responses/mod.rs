//! What tasks answer.

mod bodiless;
mod body;
mod fields;
mod framing;
mod informational;
mod retry;
mod status;

use crate::cases::Response;

/// Cases by subject.
pub(crate) const ALL: &[(&str, &[Response])] = &[
    ("status", status::CASES),
    ("fields", fields::CASES),
    ("framing", framing::CASES),
    ("body", body::CASES),
    ("bodiless", bodiless::CASES),
    ("informational", informational::CASES),
    ("retry", retry::CASES),
];
