//! What the guard says of frames, however they are cut.

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

/// A guard that has seen the peer's SETTINGS.
fn greeted(side: Side) -> Guard {
    let mut guard = Guard::new(side);
    let preface = match side {
        Side::Server => PREFACE as usize,
        Side::Client => 0,
    };
    let first = [&vec![0; preface][..], &frame(SETTINGS, 0, 0, &[])].concat();
    assert!(guard.received(&first).is_ok());
    guard
}

/// The code of the verdict on the frames, and how much of them may be handed on.
fn judged(guard: &mut Guard, frames: &[u8]) -> Option<(usize, Reason)> {
    let refused = guard.received(frames).err();
    refused.map(|(good, verdict)| (good, verdict.code))
}

#[test]
fn what_comes_before_the_offence_may_be_handed_on() {
    let get = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    let both = [&get[..], &frame(PING, 0, 0, &[0; 7])].concat();
    assert_eq!(
        judged(&mut greeted(Side::Server), &both),
        Some((get.len(), Reason::FRAME_SIZE_ERROR))
    );
}

#[test]
fn frames_are_found_wherever_they_are_cut() {
    let frames = [
        frame(HEADERS, END_HEADERS, 1, GET),
        frame(DATA, 0, 1, &[0; 300]),
        frame(PING, 0, 0, &[9; 8]),
        frame(DATA, END_STREAM, 1, b"x"),
        frame(DATA, END_STREAM, 1, b"x"),
    ]
    .concat();
    let offence = frames.len() - 10;
    for cut in 0..=frames.len() {
        let mut guard = greeted(Side::Server);
        let (first, rest) = frames.split_at(cut);
        let found = match judged(&mut guard, first) {
            Some(found) => Some(found),
            None => judged(&mut guard, rest).map(|(good, code)| (cut + good, code)),
        };
        // A head that is here in part is with h2 already, which waits for the rest.
        let (good, code) = found.expect("DATA behind END_STREAM");
        assert_eq!(code, Reason::STREAM_CLOSED);
        assert!(
            (offence..offence + 9).contains(&good),
            "cut at {cut}: {good}"
        );
    }
}

#[test]
fn byte_by_byte_is_as_good() {
    let mut guard = greeted(Side::Server);
    let frames = [
        frame(HEADERS, END_STREAM | END_HEADERS, 1, GET),
        frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]),
    ]
    .concat();
    let verdicts: Vec<_> = frames
        .iter()
        .filter_map(|byte| judged(&mut guard, &[*byte]))
        .collect();
    assert_eq!(verdicts, [(0, Reason::PROTOCOL_ERROR)]);
}

/// How many of a frame a guard lets through.
fn let_through(guard: &mut Guard, frame: &[u8]) -> usize {
    (0..100_000)
        .take_while(|_| match judged(guard, frame) {
            None => true,
            Some((_, code)) => {
                assert_eq!(code, Reason::ENHANCE_YOUR_CALM);
                // Its payload is still to come.
                assert!(guard.received(&frame[9..]).is_ok());
                false
            }
        })
        .count()
}

#[tokio::test(start_paused = true)]
async fn each_flood_ends_after_as_many_frames_as_its_purse_holds() {
    let get = frame(HEADERS, END_HEADERS, 1, GET);
    for (flood, most) in [
        (frame(PING, 0, 0, &[0; 8]), 975),
        (frame(PING, ACK, 0, &[0; 8]), 39),
        (frame(SETTINGS, 0, 0, &[]), 39),
        (frame(SETTINGS, ACK, 0, &[]), 975),
        (frame(GOAWAY, 0, 0, &[0; 8]), 39),
        (frame(PRIORITY, 0, 3, &[0; 5]), 975),
        (frame(0xee, 0, 0, &[]), 975),
        (frame(0xee, 0, 0, &[0; 16384]), 195),
        (frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 10_000),
        (frame(RST_STREAM, 0, 1, &[0; 4]), 500),
    ] {
        let mut guard = greeted(Side::Server);
        assert_eq!(judged(&mut guard, &get), None);
        assert_eq!(let_through(&mut guard, &flood), most, "{:?}", &flood[..9]);
        // Time fills the purse again, and only so far.
        tokio::time::advance(std::time::Duration::from_secs(3600)).await;
        assert!(let_through(&mut guard, &flood) <= most + 25);
    }
}

#[tokio::test(start_paused = true)]
async fn work_earns_what_it_needs() {
    let mut guard = greeted(Side::Server);
    assert_eq!(
        judged(&mut guard, &frame(HEADERS, END_HEADERS, 1, GET)),
        None
    );
    for _ in 0..10_000 {
        guard.sent(&frame(DATA, 0, 1, &[0; 100]));
        let answer = [
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 100]),
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100]),
            frame(PING, 0, 0, &[0; 8]),
        ];
        assert_eq!(judged(&mut guard, &answer.concat()), None);
    }
    // A response that ends makes good a request taken back.
    for nth in 1..10_000 {
        guard.sent(&frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            4 * nth - 1,
            &[0x88],
        ));
        let stream = 4 * nth + 1;
        let taken_back = [
            frame(HEADERS, END_HEADERS, stream, GET),
            frame(RST_STREAM, 0, stream, &[0; 4]),
        ];
        assert_eq!(judged(&mut guard, &taken_back.concat()), None);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_give_up_a_thousand_times_a_second_are_forgiven_and_three_times_that_is_a_flood()
 {
    for (a_milli, forgiven) in [(1, true), (3, false)] {
        let mut guard = greeted(Side::Server);
        let mut stream = 1;
        let mut ended = None;
        for _ in 0..20_000 {
            for _ in 0..a_milli {
                let taken_back = [
                    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET),
                    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                ];
                ended = ended.or(judged(&mut guard, &taken_back.concat()));
                stream += 2;
            }
            if ended.is_some() {
                break;
            }
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(ended.is_none(), forgiven, "{a_milli}: {ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_we_reset_for_what_came_empty_a_purse_and_others_do_not() {
    let mut guard = greeted(Side::Server);
    for code in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        for _ in 0..1000 {
            guard.sent(&frame(RST_STREAM, 0, 1, &u32::from(code).to_be_bytes()));
        }
    }
    for _ in 0..125 {
        guard.sent(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]));
        assert!(guard.spent().is_none());
    }
    guard.sent(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]));
    assert!(guard.spent().is_some());
}

#[tokio::test(start_paused = true)]
async fn small_messages_earn_two_window_updates_each_alone_and_many_in_a_frame() {
    for (messages, size) in [(1, 1), (1, 5), (3000, 5)] {
        let mut guard = greeted(Side::Server);
        assert_eq!(
            judged(&mut guard, &frame(HEADERS, END_HEADERS, 1, GET)),
            None
        );
        let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, size]);
        let updates = vec![update; 2 * messages].concat();
        for _ in 0..100_000 / messages {
            guard.sent(&frame(DATA, 0, 1, &vec![0; messages * usize::from(size)]));
            assert_eq!(judged(&mut guard, &updates), None, "{messages} of {size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn windows_may_be_opened_long_after_their_messages() {
    let mut guard = greeted(Side::Client);
    guard.sent(&vec![0; PREFACE as usize]);
    guard.sent(&frame(HEADERS, END_HEADERS, 1, GET));
    for _ in 0..50_000 {
        guard.sent(&frame(DATA, 0, 1, &[0; 6]));
    }
    let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 6]);
    assert_eq!(judged(&mut guard, &vec![update; 100_000].concat()), None);
}

#[tokio::test(start_paused = true)]
async fn windows_opened_for_less_than_a_message_are_a_flood() {
    let mut guard = greeted(Side::Server);
    assert_eq!(
        judged(&mut guard, &frame(HEADERS, END_HEADERS, 1, GET)),
        None
    );
    let mut rounds = 0;
    let updates = vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]); 1000].concat();
    while judged(&mut guard, &updates).is_none() {
        guard.sent(&frame(DATA, 0, 1, &[0; 1000]));
        rounds += 1;
    }
    assert!((10..=25).contains(&rounds), "{rounds}");
}

#[test]
fn a_goodbye_names_the_last_stream_and_comes_between_frames_only() {
    let mut guard = greeted(Side::Server);
    assert_eq!(
        judged(&mut guard, &frame(HEADERS, END_HEADERS, 7, GET)),
        None
    );
    let last = |guard: &Guard| {
        guard
            .goodbye(Reason::ENHANCE_YOUR_CALM)
            .map(|frame| frame[9..].to_vec())
    };
    assert_eq!(last(&guard), Some(vec![0, 0, 0, 7, 0, 0, 0, 11]));
    let data = frame(DATA, 0, 7, &[0; 100]);
    guard.sent(&data[..50]);
    assert_eq!(last(&guard), None);
    guard.sent(&data[50..]);
    // A last stream may not grow (RFC 9113 section 6.8).
    guard.sent(&frame(GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]));
    assert_eq!(last(&guard), Some(vec![0, 0, 0, 5, 0, 0, 0, 11]));
}

#[test]
fn a_block_that_could_not_be_decoded_is_told_from_other_faults() {
    let bytes = |frames: &[Vec<u8>]| frames.concat();
    let bad = [GET, &[0x80]].concat();
    let upper = [GET, &[0, 1, b'X', 0]].concat();
    let dynamic = [GET, &[0xbe]].concat();
    let (head, tail) = bad.split_at(3);
    for (frames, undecodable) in [
        (bytes(&[frame(HEADERS, END_HEADERS, 1, &bad)]), true),
        (
            bytes(&[
                frame(HEADERS, END_HEADERS, 1, GET),
                frame(HEADERS, END_HEADERS, 3, &bad),
            ]),
            true,
        ),
        (
            bytes(&[
                frame(HEADERS, 0, 1, head),
                frame(CONTINUATION, END_HEADERS, 1, tail),
            ]),
            true,
        ),
        (
            bytes(&[frame(
                HEADERS,
                END_HEADERS | PADDED,
                1,
                &[&[1][..], &bad, &[0]].concat(),
            )]),
            true,
        ),
        (bytes(&[frame(HEADERS, END_HEADERS, 1, &dynamic)]), true),
        (bytes(&[frame(HEADERS, END_HEADERS, 1, &upper)]), false),
        (bytes(&[frame(SETTINGS, ACK, 0, &[])]), false),
    ] {
        let guard = greeted(Side::Server);
        assert_eq!(
            guard.is_undecodable(guard.place(), &frames),
            undecodable,
            "{frames:x?}"
        );
        let mut cut = greeted(Side::Server);
        assert_eq!(judged(&mut cut, &frames[..9]), None);
        assert_eq!(
            cut.is_undecodable(cut.place(), &frames[9..]),
            undecodable,
            "head apart: {frames:x?}"
        );
    }
}

#[test]
fn a_hop_may_take_back_a_hundred_times_as_many_requests_and_not_more() {
    let mut guard = Guard::of_hop(Side::Server);
    let first = [&vec![0; PREFACE as usize][..], &frame(SETTINGS, 0, 0, &[])].concat();
    assert!(guard.received(&first).is_ok());
    let taken_back = |number: u32| {
        let stream = 2 * number + 1;
        let get = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        [get, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let most = HOP * HOLDS[Purse::Resets as usize];
    for number in 0..most {
        assert!(guard.received(&taken_back(number)).is_ok(), "{number}");
    }
    // What time has added meanwhile is bounded, too.
    let ended = (most..40 * most).any(|number| guard.received(&taken_back(number)).is_err());
    assert!(ended, "nothing ends it");
}
