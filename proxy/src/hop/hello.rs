//! The hello: by it both ends of a new connection know each other before a request is sent (`proxy/HOP.md` section 2).

use std::time::Duration;

use bytes::BytesMut;
use outrigger_xds::hop::{Identity, Tokens};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{Kind, ProxyError};
use crate::mutants::{self, Mutant};

/// Neither side's words are longer, in bytes.
const MOST: usize = 1024;

const ASKED: &str = "OPTIONS * HTTP/1.1\r\nHost: hop.outrigger.invalid\r\nConnection: Upgrade\r\nUpgrade: outrigger-hop/1\r\n\
    Outrigger-Target: ";
const TOKEN: &str = "\r\nOutrigger-Token: ";
const GRANTED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: outrigger-hop/1";
const END: &str = "\r\n\r\n";
/// To whoever is mistaken.
pub(crate) const MISDIRECTED: &str = "HTTP/1.1 421 Misdirected Request\r\nconnection: close\r\ncontent-length: 0\r\n\
    outrigger-verdict: undelivered\r\n\r\n";
/// To whoever asks a sidecar that is full.
pub(crate) const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\
    outrigger-verdict: undelivered UO\r\n\r\n";

/// Asks a new connection's peer whether it is the one that is meant. On any error nothing of a request has been sent.
pub(crate) async fn ask<S>(
    stream: &mut S,
    target: &str,
    tokens: &Tokens,
    timeout: Duration,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if mutants::is(Mutant::HopWithoutProof) {
        return Ok(());
    }
    let words = format!("{ASKED}{target}{TOKEN}{}{END}", tokens.request);
    if words.len() > MOST {
        let long = format!("the hello to {target} has more than {MOST} bytes");
        return Err(ProxyError::caused(Kind::ConnectFailed, long));
    }
    let asking = async {
        stream.write_all(words.as_bytes()).await?;
        let mut answer = BytesMut::with_capacity(MOST);
        while memchr::memmem::find(&answer, END.as_bytes()).is_none() && answer.len() < MOST {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(ProxyError::caused(Kind::ConnectFailed, error)),
        Err(_) => {
            return Err(ProxyError::caused(
                Kind::ConnectTimeout,
                "no answer to a hello",
            ));
        }
    };
    judge(&answer, target, tokens)
}

fn judge(answer: &[u8], target: &str, tokens: &Tokens) -> Result<(), ProxyError> {
    if answer.is_empty() {
        let closed = "the connection was closed at its hello";
        return Err(ProxyError::caused(Kind::ConnectFailed, closed));
    }
    let proof = answer
        .strip_prefix(GRANTED.as_bytes())
        .and_then(|rest| rest.strip_prefix(TOKEN.as_bytes()))
        .and_then(|rest| rest.strip_suffix(END.as_bytes()));
    if proof.is_some_and(|proof| tokens.verdict.is(proof)) {
        return Ok(());
    }
    if answer == BUSY.as_bytes() {
        return Err(ProxyError::caused(Kind::Unsent, "the sidecar is full"));
    }
    let line = answer.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    let why = format!("whoever answers is not {target}: {line:.60}");
    Err(ProxyError::caused(Kind::Misdirected, why))
}

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// No hello: a foreign client's.
    Other,
    /// It may become one.
    Part,
    /// One of so many bytes.
    Hello {
        target: &'a [u8],
        token: &'a [u8],
        length: usize,
    },
}

/// Looks whether `bytes` begin with a hello.
pub(crate) fn hear(bytes: &[u8]) -> Heard<'_> {
    let Some(rest) = bytes.strip_prefix(ASKED.as_bytes()) else {
        return part_or_other(ASKED.as_bytes().starts_with(bytes));
    };
    let Some(end) = memchr::memchr(b'\r', rest) else {
        return part_or_other(bytes.len() < MOST);
    };
    let (target, rest) = rest.split_at(end);
    let Some(rest) = rest.strip_prefix(TOKEN.as_bytes()) else {
        return part_or_other(TOKEN.as_bytes().starts_with(rest));
    };
    let Some(end) = memchr::memchr(b'\r', rest) else {
        return part_or_other(bytes.len() < MOST);
    };
    let (token, rest) = rest.split_at(end);
    let over = rest.strip_prefix(END.as_bytes());
    match over.map(|over| bytes.len() - over.len()) {
        Some(length) if length <= MOST => Heard::Hello {
            target,
            token,
            length,
        },
        Some(_) => Heard::Other,
        None => part_or_other(END.as_bytes().starts_with(rest)),
    }
}

const fn part_or_other(part: bool) -> Heard<'static> {
    if part { Heard::Part } else { Heard::Other }
}

/// What a hello is answered; `None` where somebody else is meant, or the token is wrong.
pub(crate) fn answer(identity: &Identity, target: &[u8], token: &[u8]) -> Option<String> {
    let mut targets = identity.targets.iter();
    let tokens = &identity.tokens;
    let meant = targets.any(|own| own.as_bytes() == target);
    // Both are looked at in any case, and the token in constant time: who is meant is no secret.
    let known = tokens.request.is(token);
    let believed = meant & known || mutants::is(Mutant::HopForAnybody);
    believed.then(|| format!("{GRANTED}{TOKEN}{}{END}", tokens.verdict))
}

#[cfg(test)]
mod tests {
    use outrigger_xds::hop::Token;

    use super::*;

    const TARGET: &str = "shop/orders/task-1";

    fn tokens() -> Tokens {
        Tokens {
            request: Token::new([1; 16]),
            verdict: Token::new([2; 16]),
        }
    }

    fn identity() -> Identity {
        Identity {
            targets: vec!["shop/admin/task-1".to_owned(), TARGET.to_owned()],
            tokens: tokens(),
        }
    }

    async fn asked() -> Vec<u8> {
        let (mut near, mut far) = tokio::io::duplex(MOST);
        let listen = async {
            let mut heard = vec![0; MOST];
            let read = far.read(&mut heard).await.unwrap();
            heard.truncate(read);
            heard
        };
        let tokens = tokens();
        let ask = ask(&mut near, TARGET, &tokens, Duration::from_secs(9));
        tokio::select! {
            _ = ask => unreachable!("nobody answers"),
            heard = listen => heard,
        }
    }

    #[tokio::test]
    async fn what_one_side_asks_the_other_hears_however_it_is_cut() {
        let words = asked().await;
        for cut in 0..words.len() {
            assert_eq!(hear(&words[..cut]), Heard::Part, "{cut}");
        }
        let more = [&words[..], b"GET / HTTP/1.1\r\n"].concat();
        let Heard::Hello {
            target,
            token,
            length,
        } = hear(&more)
        else {
            panic!("it is one");
        };
        assert_eq!((target, length), (TARGET.as_bytes(), words.len()));
        let answered = answer(&identity(), target, token).expect("it is meant");
        assert!(judge(answered.as_bytes(), TARGET, &tokens()).is_ok());
    }

    #[tokio::test]
    async fn what_is_not_exactly_a_hello_is_an_ordinary_request() {
        let words = String::from_utf8(asked().await).unwrap();
        for other in [
            "GET / HTTP/1.1\r\n".to_owned(),
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            words.replace("hop/1", "hop/2"),
            words.replace("Connection: Upgrade", "connection: upgrade"),
            words.replace("\r\nOutrigger-Token", "\r\nX: 1\r\nOutrigger-Token"),
            words.replace(END, "\r\nX: 1\r\n\r\n"),
            format!("{ASKED}{}", "a".repeat(MOST)),
            // However it is cut.
            words.replace(TARGET, &"a".repeat(MOST)),
        ] {
            assert_eq!(hear(other.as_bytes()), Heard::Other, "{other}");
        }
    }

    #[test]
    fn a_hello_to_another_or_with_a_wrong_token_is_refused() {
        let right = tokens().request.to_hex();
        let wrong = Token::new([3; 16]).to_hex();
        let hears = |target: &str, token: &[u8]| answer(&identity(), target.as_bytes(), token);
        assert!(hears(TARGET, &right).is_some());
        assert!(hears("shop/admin/task-1", &right).is_some());
        for (target, token) in [
            ("shop/orders/task-2", &right[..]),
            ("shop/cart/task-1", &right),
            (TARGET, &wrong),
            (TARGET, &right[..31]),
            (TARGET, b""),
        ] {
            assert!(hears(target, token).is_none(), "{target}");
        }
    }

    #[test]
    fn nothing_but_the_right_token_is_proof() {
        let proof = answer(&identity(), TARGET.as_bytes(), &tokens().request.to_hex());
        let proof = proof.expect("it is meant");
        let kind = |answer: &str| judge(answer.as_bytes(), TARGET, &tokens()).map_err(|e| e.kind);
        let request = tokens().request.to_string();
        let verdict = tokens().verdict.to_string();
        assert_eq!(kind(&proof), Ok(()));
        assert_eq!(kind(""), Err(Kind::ConnectFailed));
        // One that is full is not one that is mistaken.
        assert_eq!(kind(BUSY), Err(Kind::Unsent));
        for other in [
            MISDIRECTED.to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "\0\0\u{6}\u{4}".to_owned(),
            // The token it was sent does not help it.
            proof.replace(&verdict, &request),
            proof[..proof.len() - 2].to_owned(),
            format!("{proof}HTTP/1.1 200 OK\r\n\r\n"),
        ] {
            assert_eq!(kind(&other), Err(Kind::Misdirected), "{other}");
        }
    }

    #[tokio::test]
    async fn a_hello_that_nobody_would_hear_is_not_said() {
        let (mut near, mut far) = tokio::io::duplex(MOST);
        let long = "a".repeat(MOST);
        let asked = ask(&mut near, &long, &tokens(), Duration::from_secs(9)).await;
        assert_eq!(asked.unwrap_err().kind, Kind::ConnectFailed);
        drop(near);
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mute_peer_is_a_connection_that_was_not_made() {
        let (mut near, _far) = tokio::io::duplex(MOST);
        let asked = ask(&mut near, TARGET, &tokens(), Duration::from_secs(1)).await;
        assert_eq!(asked.unwrap_err().kind, Kind::ConnectTimeout);
    }
}
