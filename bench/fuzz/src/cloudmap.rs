//! The Cloud Map API: whatever is called in whatever order, each call has a well-formed answer or a well-formed error.
//!
//! The input is text: an operation and its JSON body on each line. `$1` to `$9` stand for ids that earlier answers told.

use outrigger_control::fuzzing::Api;
use serde_json::Value;

/// Calls in one run; more take long and tell little.
const MAX_CALLS: usize = 16;

/// All calls on one empty registry.
pub fn check(bytes: &[u8]) {
    let api = Api::new().expect("a registry in memory can be made");
    let mut ids = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').take(MAX_CALLS) {
        let space = line.iter().position(|byte| *byte == b' ');
        let (operation, body) = line.split_at(space.unwrap_or(line.len()));
        let operation = String::from_utf8_lossy(operation);
        let body = filled(body.trim_ascii_start(), &ids);
        let (status, answer) = api
            .call(&operation, &body)
            .expect("the answer is in memory");
        let shown = String::from_utf8_lossy(&answer);
        if answer.is_empty() {
            assert_eq!(status, 200, "an error without words");
            continue;
        }
        let answer: Value = serde_json::from_slice(&answer).expect(&shown);
        assert!(answer.is_object(), "{shown}");
        if status != 200 {
            assert_eq!(status, 400, "{shown}");
            let text = |member: &str| answer[member].as_str().is_some_and(|text| !text.is_empty());
            assert!(text("__type") && text("Message"), "{shown}");
        }
        note(&answer, &mut ids);
    }
}

/// The body with every `$n` replaced.
fn filled(body: &[u8], ids: &[String]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(body.len());
    let mut bytes = body.iter().peekable();
    while let Some(byte) = bytes.next() {
        let digit = bytes
            .peek()
            .and_then(|digit| char::from(**digit).to_digit(10));
        let id = digit.and_then(|digit| ids.get((digit as usize).checked_sub(1)?));
        match id.filter(|_| *byte == b'$') {
            Some(id) => {
                filled.extend_from_slice(id.as_bytes());
                bytes.next();
            }
            None => filled.push(*byte),
        }
    }
    filled
}

/// Keeps the ids in an answer.
fn note(answer: &Value, ids: &mut Vec<String>) {
    let Some(members) = answer.as_object() else {
        return;
    };
    for (name, value) in members {
        match value {
            Value::String(id) if name == "Id" || name == "OperationId" => {
                if ids.len() < 9 && !ids.contains(id) {
                    ids.push(id.clone());
                }
            }
            inner => note(inner, ids),
        }
    }
}
