use super::*;

/// Data, trailers, and what follows the body.
type Whole = (Vec<u8>, Option<Fields>, Vec<u8>);

/// All parts of a chunked body that comes `step` bytes at a time, and what is left over.
fn decoded(wire: &[u8], step: usize) -> Result<Whole, Refused> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let mut buffer = BytesMut::new();
    let (mut data, mut trailers) = (Vec::new(), None);
    let mut rest = wire;
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Part(Part::Data(part)) => data.extend_from_slice(&part),
            Decoded::Part(Part::Trailers(fields)) => trailers = Some(fields),
            Decoded::End => {
                let mut left = buffer.to_vec();
                left.extend_from_slice(rest);
                return Ok((data, trailers, left));
            }
            Decoded::More => {
                assert!(!rest.is_empty(), "the body does not end");
                let (now, later) = rest.split_at(step.min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
            }
        }
    }
}

#[test]
fn a_chunked_body_is_the_same_however_it_is_cut() {
    let wire = b"4;a=\"b\"\r\nwiki\r\n005\r\npedia\r\n0\r\nX-Sum: 1\r\nx-more: 2\r\n\r\nGET /";
    for step in 1..=wire.len() {
        let (data, trailers, left) = decoded(wire, step).unwrap();
        assert_eq!(data, b"wikipedia", "{step}");
        let trailers = trailers.expect("there are trailers");
        let names: Vec<_> = trailers.iter().map(|(_, name, _)| name).collect();
        assert_eq!(names, [&b"X-Sum"[..], b"x-more"]);
        assert_eq!(left, b"GET /", "{step}");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    for wire in [
        "\r\n",
        "x\r\n",
        "0x1\r\na\r\n",
        "-1\r\n",
        "1 \r\na\r\n",
        "1\na\r\n",
        "1\r\nab\r\n",
        "1;a=\u{1}\r\na\r\n",
        "10000000000000000\r\n",
        "8000000000000000\r\n",
        "1;\r\na\r\n",
        "1;=b\r\na\r\n",
        "1;a=\r\na\r\n",
        "1;a=\"b\r\na\r\n",
        "1;a=\"\\\r\na\r\n",
        "1;a b\r\na\r\n",
        "0\r\nX: 1\n\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\n\n\r\n",
        "0\r\nX: 1\nY: 2\r\n\r\n",
    ] {
        for step in [1, wire.len()] {
            assert!(
                decoded(wire.as_bytes(), step).is_err(),
                "{wire:?} by {step}"
            );
        }
    }
}

#[test]
fn extensions_of_every_form_are_passed_over() {
    for extension in [";a", " ; a=b;c", ";a=\"b;\\\"\\\\ \t\u{e9}\"", "\t;\ta = b"] {
        let wire = format!("1{extension}\r\nx\r\n0{extension}\r\n\r\n");
        let (data, ..) = decoded(wire.as_bytes(), 1).unwrap();
        assert_eq!(data, b"x", "{wire:?}");
    }
}

#[test]
fn trailers_that_may_not_be_there_are_dropped() {
    let wire = b"0\r\nHost: a\r\nX: 1\r\nContent-Length: 5\r\n\r\n";
    let (_, trailers, _) = decoded(wire, wire.len()).unwrap();
    let trailers = trailers.expect("one stays");
    let names: Vec<_> = trailers.iter().map(|(_, name, _)| name).collect();
    assert_eq!(names, [b"X"]);
}

#[test]
fn a_body_is_known_whole_exactly_when_it_is() {
    for (framing, wire) in [
        (Framing::Chunked, &b"4;a\r\nwiki\r\n0\r\nX: 1\r\n\r\n"[..]),
        (Framing::Chunked, b"0\r\n\r\n"),
        (Framing::Length(4), b"wiki"),
    ] {
        let decoder = Decoder::new(framing);
        for end in 0..wire.len() {
            assert_eq!(decoder.whole(&wire[..end]), Ok(None), "{end}");
        }
        let more = [wire, b"more"].concat();
        assert_eq!(decoder.whole(wire), Ok(Some(wire.len())));
        assert_eq!(decoder.whole(&more), Ok(Some(wire.len())));
    }
    let chunked = Decoder::new(Framing::Chunked);
    for wire in ["1\r\nab", "x\r\n", "0\r\nX : 1\r\n\r\n"] {
        assert!(chunked.whole(wire.as_bytes()).is_err(), "{wire:?}");
    }
    assert_eq!(Decoder::new(Framing::UntilClose).whole(b"x"), Ok(None));
}

#[test]
fn a_first_line_and_trailers_are_bounded() {
    let line = format!("1;{}", "a".repeat(2 * MAX_SIZE_LINE));
    assert!(decoded(line.as_bytes(), 64).is_err());
    let trailers = format!("0\r\nX: {}", "a".repeat(2 * MAX_TRAILERS));
    assert_eq!(
        decoded(trailers.as_bytes(), 64).unwrap_err(),
        Refused::TooLarge
    );
}

#[test]
fn a_length_is_kept_to_the_byte() {
    let mut decoder = Decoder::new(Framing::Length(5));
    let mut buffer = BytesMut::from(&b"abc"[..]);
    let part = decoder.decode(&mut buffer).unwrap();
    assert!(matches!(part, Decoded::Part(Part::Data(data)) if data == "abc"));
    assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::More)));
    assert_eq!(decoder.remaining(), Some(2));
    buffer.extend_from_slice(b"deGET");
    let part = decoder.decode(&mut buffer).unwrap();
    assert!(matches!(part, Decoded::Part(Part::Data(data)) if data == "de"));
    assert!(decoder.is_done());
    assert_eq!(&buffer[..], b"GET");
}
