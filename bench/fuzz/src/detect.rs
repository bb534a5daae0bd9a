//! Protocol detection: what is once decided stays, and it is decided soon.

use outrigger_proxy::fuzzing::recognise;

/// More bytes than any protocol takes to be known.
const ENOUGH: usize = 27;

/// However the first bytes are cut into reads, the verdict is the same: it is that of the shortest prefix that has one.
pub fn check(bytes: &[u8]) {
    let mut decided = None;
    for end in 0..=bytes.len().min(4 * ENOUGH) {
        let now = recognise(&bytes[..end]);
        if decided.is_some() {
            assert_eq!(now, decided, "{end} bytes change the verdict");
        }
        decided = now;
    }
    if bytes.len() >= ENOUGH {
        assert!(decided.is_some(), "{} bytes decide nothing", bytes.len());
        assert_eq!(recognise(bytes), decided);
    }
}
