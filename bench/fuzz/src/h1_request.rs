//! An HTTP/1.1 request's head: read, routed, written and read again.

use outrigger_proxy::fuzzing::{self, Request, Routes};

use crate::{assert_lines, pieces};

thread_local! {
    static ROUTES: Routes = Routes::default();
}

/// A head that is taken is written so that the next hop reads the same; one that grows never changes its verdict.
pub fn check(bytes: &[u8]) {
    let whole = fuzzing::request(bytes);
    grows(bytes, &whole);
    let Ok(Some(mut head)) = whole else { return };
    let (target, authority) = (head.target().to_vec(), head.authority().to_vec());
    let route = ROUTES.with(|routes| routes.find(&head).map(str::to_owned));
    let wire = head.write();
    assert_lines(&wire, head.fields().len());
    let again = fuzzing::request(&wire)
        .unwrap_or_else(|why| panic!("{why}: {:?}", String::from_utf8_lossy(&wire)))
        .expect("what was written is a whole head");
    assert_eq!(again.length, wire.len());
    assert_eq!(again.method(), head.method());
    assert_eq!(again.target(), target);
    assert_eq!(again.fields(), head.fields());
    assert_eq!(again.body, head.body);
    if !authority.is_empty() {
        assert_eq!(again.authority(), authority);
        let found = ROUTES.with(|routes| routes.find(&again).map(str::to_owned));
        assert_eq!(found, route, "the next hop takes another route");
    }
}

/// A prefix of a head is incomplete, and whatever follows a head or what is refused changes nothing.
fn grows(bytes: &[u8], whole: &Result<Option<Request>, String>) {
    let (mut end, mut decided) = (0, false);
    for piece in pieces(bytes, 0) {
        let now = fuzzing::request(&bytes[..end]);
        match (&now, whole) {
            (Ok(None), _) => assert!(!decided, "{end} bytes of a verdict are none"),
            (Ok(Some(now)), Ok(Some(whole))) => assert_eq!(now.length, whole.length),
            (Err(_), Err(_)) => {}
            _ => panic!("{now:?} after {end} bytes, then {whole:?}"),
        }
        decided = !matches!(now, Ok(None));
        end += piece.len();
    }
}
