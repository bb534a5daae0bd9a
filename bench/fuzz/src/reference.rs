//! A second reader of HTTP/1.1 requests, written from the grammar of RFC 9112 and RFC 9110 alone. It shares no code with the
//! sidecar's, keeps everything in memory and takes nothing that can be read in two ways.
//!
//! Where the sidecar is laxer than the grammar on purpose, so is this, and only here: any visible byte but `#` in the path and
//! query, any text without control characters as chunk extension, repeated Content-Lengths of one value, an empty Host.

/// A field's name and value.
pub type Field = (Vec<u8>, Vec<u8>);

/// One request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The method.
    pub method: Vec<u8>,
    /// As it was sent, whichever form it has.
    pub target: Vec<u8>,
    /// Its fields in order.
    pub fields: Vec<Field>,
    /// Its body without framing; of an incomplete message what there is.
    pub body: Vec<u8>,
    /// Its trailers in order.
    pub trailers: Vec<Field>,
    /// Whether its length was chunked.
    pub chunked: bool,
}

/// Why there is no whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The bytes end within it; the head, when that is complete.
    Incomplete(Option<Box<Message>>),
    /// It must be refused.
    Refused(&'static str),
}

impl From<&'static str> for Stop {
    fn from(reason: &'static str) -> Self {
        Self::Refused(reason)
    }
}

/// Every message up to the end of the bytes or to what stops reading, each with the place of its end.
pub fn messages(bytes: &[u8]) -> (Vec<(Message, usize)>, Stop) {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        match message(&bytes[at..]) {
            Ok((message, length)) => {
                at += length;
                found.push((message, at));
            }
            Err(stop) => return (found, stop),
        }
    }
}

/// The first message and its length.
pub fn message(bytes: &[u8]) -> Result<(Message, usize), Stop> {
    let mut input = Input { bytes, at: 0 };
    // "At least one empty line" may come before a request (RFC 9112 section 2.2).
    while input.rest().starts_with(b"\r\n") {
        input.at += 2;
    }
    let (mut message, minor) = request_line(input.line()?)?;
    message.fields = fields(&mut input)?;
    let length = framing(&message.fields, minor)?;
    hosts(&message, minor)?;
    let incomplete = |message: &Message| Stop::Incomplete(Some(Box::new(message.clone())));
    match length {
        Length::Bytes(length) => {
            let there = input.rest().len() as u64;
            message.body = input.take(length.min(there) as usize).to_vec();
            if there < length {
                return Err(incomplete(&message));
            }
        }
        Length::Chunked => {
            message.chunked = true;
            match chunked(&mut input, &mut message) {
                Err(Stop::Incomplete(_)) => return Err(incomplete(&message)),
                done => done?,
            }
        }
    }
    Ok((message, input.at))
}

/// The requests' bytes and how far they are read.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = &self.rest()[..length];
        self.at += length;
        taken
    }

    /// One line without its CRLF. CR and LF stand nowhere else.
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = self.rest();
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            return Err(Stop::Incomplete(None));
        };
        match &rest[end..] {
            [b'\r', b'\n', ..] => {
                self.at += end + 2;
                Ok(&rest[..end])
            }
            [b'\r'] => Err(Stop::Incomplete(None)),
            _ => Err(Stop::Refused("a bare CR or LF")),
        }
    }
}

/// request-line = method SP request-target SP HTTP-version (RFC 9112 section 3).
fn request_line(line: &[u8]) -> Result<(Message, u8), Stop> {
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err("not three words on the request line".into());
    };
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return Err("another version".into()),
    };
    if !is_token(method) {
        return Err("the method is no token".into());
    }
    if method == b"CONNECT" {
        return Err("CONNECT is not passed on".into());
    }
    let visible = |byte: &u8| matches!(byte, 0x21..=0x7e | 0x80..) && *byte != b'#';
    if !target.iter().all(visible) {
        return Err("a byte that no target has".into());
    }
    let known = match target {
        b"*" => method == b"OPTIONS",
        [b'/', ..] => true,
        _ => absolute(target).is_some(),
    };
    if !known {
        return Err("no form of a target".into());
    }
    let message = Message {
        method: method.to_vec(),
        target: target.to_vec(),
        ..Message::default()
    };
    Ok((message, minor))
}

/// Authority, path and query of an absolute-form target (RFC 9112 section 3.2.2).
pub fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let after = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest = after(b"http://").or_else(|| after(b"https://"))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
    (!authority.is_empty() && is_host(authority)).then_some((authority, path))
}

/// *( field-line CRLF ) CRLF (RFC 9112 section 5).
fn fields(input: &mut Input<'_>) -> Result<Vec<Field>, Stop> {
    let mut fields = Vec::new();
    loop {
        let line = input.line()?;
        if line.is_empty() {
            return Ok(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or("a field without colon")?);
        let value = value[1..].trim_ascii();
        if !is_token(name) {
            return Err("a field's name is no token".into());
        }
        // trim_ascii takes more than OWS, all of which is refused here.
        let allowed = |byte: &u8| matches!(byte, b'\t' | b' '..=0x7e | 0x80..);
        if !line[name.len()..].iter().all(allowed) {
            return Err("a control character in a field's value".into());
        }
        fields.push((name.to_vec(), value.to_vec()));
    }
}

enum Length {
    Bytes(u64),
    Chunked,
}

/// RFC 9112 section 6.3, without the choices it leaves.
fn framing(fields: &[Field], minor: u8) -> Result<Length, Stop> {
    let codings = values(fields, "transfer-encoding");
    let lengths = values(fields, "content-length");
    if let Some(first) = codings.first() {
        let plain = codings.len() == 1 && first.eq_ignore_ascii_case(b"chunked");
        return if plain && minor == 1 && lengths.is_empty() {
            Ok(Length::Chunked)
        } else {
            Err("not just chunked, or in HTTP/1.0, or beside Content-Length".into())
        };
    }
    let mut known = None;
    for value in lengths {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits);
        let number: u64 = number
            .and_then(|text| text.parse().ok())
            .ok_or("Content-Length is no number")?;
        if known.is_some_and(|known| known != number) {
            return Err("two Content-Lengths".into());
        }
        known = Some(number);
    }
    Ok(Length::Bytes(known.unwrap_or(0)))
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, never two.
fn hosts(message: &Message, minor: u8) -> Result<(), Stop> {
    match values(&message.fields, "host")[..] {
        [] if minor == 0 => Ok(()),
        [one] if is_host(one) => Ok(()),
        _ => Err("no Host, several, or one that is none".into()),
    }
}

/// uri-host [ ":" port ] (RFC 9110 section 7.2, RFC 3986 section 3.2).
fn is_host(text: &[u8]) -> bool {
    let bracket = text
        .starts_with(b"[")
        .then(|| text.iter().position(|byte| *byte == b']'));
    let (host, port) = match bracket {
        Some(Some(end)) => text.split_at(end + 1),
        Some(None) => return false,
        None => text.split_at(
            text.iter()
                .position(|byte| *byte == b':')
                .unwrap_or(text.len()),
        ),
    };
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let literal = |byte: &u8| name(byte) || *byte == b':';
    let host = match host {
        [b'[', inner @ .., b']'] => !inner.is_empty() && inner.iter().all(literal),
        _ => host.iter().all(name),
    };
    host && (port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit)))
}

/// chunked-body (RFC 9112 section 7.1).
fn chunked(input: &mut Input<'_>, message: &mut Message) -> Result<(), Stop> {
    loop {
        let line = input.line()?;
        let end = line.iter().position(|byte| !byte.is_ascii_hexdigit());
        let (size, extension) = line.split_at(end.unwrap_or(line.len()));
        let size = std::str::from_utf8(size).ok();
        let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or("a chunk's size is no number")?;
        let name = extension.trim_ascii_start();
        if !extension.is_empty() && !name.starts_with(b";") {
            return Err("neither an extension nor the end after a chunk's size".into());
        }
        let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if extension.iter().any(control) {
            return Err("a control character in a chunk's extension".into());
        }
        if size == 0 {
            message.trailers = fields(input)?;
            return Ok(());
        }
        let there = input.rest().len() as u64;
        let data = input.take(size.min(there) as usize);
        message.body.extend_from_slice(data);
        if !input.rest().starts_with(b"\r\n") {
            let cut = there < size || b"\r\n".starts_with(input.rest());
            return Err(if cut {
                Stop::Incomplete(None)
            } else {
                "a chunk without its CRLF".into()
            });
        }
        input.at += 2;
    }
}

/// The values of every field of that name.
pub fn values<'a>(fields: &'a [Field], name: &str) -> Vec<&'a [u8]> {
    let named = fields
        .iter()
        .filter(|field| field.0.eq_ignore_ascii_case(name.as_bytes()));
    named.map(|(_, value)| value.as_slice()).collect()
}

/// 1*tchar (RFC 9110 section 5.6.2).
fn is_token(text: &[u8]) -> bool {
    let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_framing_says() {
        let wire = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n\
                     \r\nPUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\
                     GET /c HTTP/1.0\r\n\r\nGET /d HTTP/1.1\r\nHo";
        let (found, stop) = messages(wire);
        let shown: Vec<_> = found
            .iter()
            .map(|(message, _)| (&message.target[..], &message.body[..]))
            .collect();
        assert_eq!(
            shown,
            [(&b"/a"[..], &b"abc"[..]), (b"/b", b"hi"), (b"/c", b"")]
        );
        assert_eq!(found[0].0.trailers, [(b"X-Sum".to_vec(), b"1".to_vec())]);
        assert_eq!(&wire[found[2].1..], b"GET /d HTTP/1.1\r\nHo");
        assert_eq!(stop, Stop::Incomplete(None));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for head in [
            "GET / HTTP/1.1\nHost: a",
            "GET / HTTP/1.1\r\nX: 1",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
            "GET / HTTP/1.1\r\nHost: a@b",
            "GET / HTTP/1.1\r\nHost: a\r\nX : 1",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \u{b}",
            "GET /a b HTTP/1.1\r\nHost: a",
            "GET /a#b HTTP/1.1\r\nHost: a",
            "GET ftp://a/ HTTP/1.1\r\nHost: a",
            "GET http://a@b/ HTTP/1.1\r\nHost: b",
            "GET * HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.2\r\nHost: a",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked",
        ] {
            let read = message(format!("{head}\r\n\r\n").as_bytes());
            assert!(matches!(read, Err(Stop::Refused(_))), "{head:?}: {read:?}");
        }
        for body in [
            "0x1\r\na\r\n",
            "1 \r\na\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1;\u{1}\r\na\r\n",
            "0\r\nX : 1\r\n\r\n",
        ] {
            let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let read = message(format!("{head}{body}").as_bytes());
            assert!(matches!(read, Err(Stop::Refused(_))), "{body:?}: {read:?}");
        }
    }
}
