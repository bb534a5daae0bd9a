//! The `date` of the sidecar's own answers (RFC 9110 section 6.6.1), written once a second.

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::head::ResponseHead;

/// One worker's date.
#[derive(Debug, Default)]
pub(crate) struct Date {
    second: Cell<u64>,
    text: RefCell<String>,
}

impl Date {
    /// Gives an answer of our own its date.
    pub(crate) fn stamp(&self, head: &mut ResponseHead) {
        let now = SystemTime::now();
        // A clock before 1970 is a clock that is not set: no date is sent then (RFC 9110 section 6.6.1).
        let Ok(second) = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()) else {
            return;
        };
        if self.second.replace(second) != second || self.text.borrow().is_empty() {
            *self.text.borrow_mut() = httpdate::fmt_http_date(now);
        }
        head.fields.push("date", self.text.borrow().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn an_answer_says_when_it_was_made() {
        let date = Date::default();
        let before = SystemTime::now();
        for _ in 0..2 {
            let mut head = ResponseHead::new(StatusCode::OK);
            date.stamp(&mut head);
            let text = head
                .fields
                .iter()
                .next()
                .map(|(_, _, value)| value.to_vec());
            let text = String::from_utf8(text.expect("it has a date")).expect("a date is ASCII");
            let said = httpdate::parse_http_date(&text).expect("the date is an IMF-fixdate");
            let late = said
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
                .as_secs()
                - before
                    .duration_since(UNIX_EPOCH)
                    .expect("after 1970")
                    .as_secs();
            assert!(late <= 1, "{text}");
        }
    }
}
