//! A client's connection as the sidecar and as the reference read it: whatever is forwarded has the same boundaries for both.

use outrigger_proxy::fuzzing::forwarded;

use crate::reference::{self, Field, Message, Stop, absolute, values};

/// A connection holds this much without anybody reading.
const MOST: usize = 64 * 1024;
/// Fields that no trailer section may have, because they would change how a message is read (RFC 9110 section 6.5.1).
const NOT_IN_TRAILERS: [&[u8]; 9] = [
    b"connection",
    b"content-length",
    b"host",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// Forwards the requests in `bytes`, and reads both sides with the reference.
pub fn check(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST)];
    let sidecar = forwarded(bytes).expect("socket pairs can be made");
    let (sent, stop) = reference::messages(bytes);
    let mut last = 0;
    for (at, message) in sidecar.messages.iter().enumerate() {
        let shown = String::from_utf8_lossy(&message.wire);
        let read = reference::message(&message.wire);
        match (message.complete, read, sent.get(at)) {
            (true, Ok((read, length)), Some((wanted, end))) => {
                assert_eq!(
                    length,
                    message.wire.len(),
                    "two messages instead of one: {shown}"
                );
                same(wanted, &read);
                last = *end;
            }
            (true, read, wanted) => {
                panic!("forwarded {shown:?}, {read:?}; the client sent {wanted:?}, then {stop:?}")
            }
            (false, Ok(_), _) => panic!("part of a message reads as a whole one: {shown}"),
            (false, Err(Stop::Refused(why)), _) => panic!("forwarded {shown}: {why}"),
            // What follows in the client's bytes is not a message either.
            (false, Err(Stop::Incomplete(read)), None) => part(read.as_deref(), &stop),
            (false, Err(Stop::Incomplete(_)), Some(_)) => {}
        }
    }
    if sidecar.messages.iter().all(|message| message.complete) && !sidecar.messages.is_empty() {
        let end = bytes.len() - sidecar.left;
        // The empty lines before a next message may be taken as soon as they are there.
        let between = &bytes[last..end.max(last)];
        assert!(
            end >= last && between.iter().all(|byte| b"\r\n".contains(byte)),
            "{last}, not {end}"
        );
    }
}

/// What was forwarded of a message that broke off is what there was of it.
fn part(read: Option<&Message>, stop: &Stop) {
    if let (Some(read), Stop::Incomplete(Some(sent))) = (read, stop) {
        assert_eq!(read.method, sent.method);
        assert!(
            sent.body.starts_with(&read.body),
            "other bytes than the client's"
        );
    }
}

/// The same message, but for what one hop takes out and says anew (RFC 9110 section 7.6, RFC 9112 section 3.2).
fn same(sent: &Message, read: &Message) {
    assert_eq!(read.method, sent.method);
    assert_eq!(read.body, sent.body);
    let (authority, path) = absolute(&sent.target).unwrap_or((b"", &sent.target));
    let asterisk = path.is_empty() && read.target == b"*";
    let mut path = path.to_vec();
    if !asterisk && !path.starts_with(b"/") && !authority.is_empty() {
        path.insert(0, b'/');
    }
    assert!(asterisk || read.target == path, "{read:?} for {sent:?}");
    let host = values(&read.fields, "host");
    assert_eq!(host.len(), 1, "one Host");
    if !authority.is_empty() {
        assert_eq!(host[0], authority);
    } else if let [host] = values(&sent.fields, "host")[..] {
        assert_eq!(values(&read.fields, "host"), [host]);
    }
    let named = options(&sent.fields);
    let trailer = |field: &&Field| {
        let is = |name: &&[u8]| field.0.eq_ignore_ascii_case(name);
        !NOT_IN_TRAILERS.iter().any(is) && !named.iter().any(is)
    };
    let wanted: Vec<_> = sent.trailers.iter().filter(trailer).collect();
    assert_eq!(read.trailers.iter().collect::<Vec<_>>(), wanted);
    fields(&sent.fields, &read.fields);
}

/// Nothing is added but what frames and routes; nothing is missing but what is for one hop; the order stays.
fn fields(sent: &[Field], read: &[Field]) {
    let is = |names: &[&str], field: &Field| {
        names
            .iter()
            .any(|name| field.0.eq_ignore_ascii_case(name.as_bytes()))
    };
    let own = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
    ];
    let mut rest = sent.iter();
    for field in read.iter().filter(|field| !is(&own, field)) {
        assert!(
            rest.any(|other| other == field),
            "{field:?} was added or moved"
        );
    }
    let options = options(sent);
    let hop = ["keep-alive", "proxy-connection", "upgrade"];
    for field in sent
        .iter()
        .filter(|field| !is(&own, field) && !is(&hop, field))
    {
        let dropped = options
            .iter()
            .any(|option| option.eq_ignore_ascii_case(&field.0));
        assert!(dropped || read.contains(field), "{field:?} is missing");
    }
}

/// What Connection names: fields for one hop, in the head and in trailers.
fn options(sent: &[Field]) -> Vec<&[u8]> {
    values(sent, "connection")
        .into_iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect()
}
