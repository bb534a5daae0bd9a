//! Replays the committed corpus through every target.

use std::path::Path;

fn replayed(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let (mut replayed, mut failed) = (0, Vec::new());
    for entry in std::fs::read_dir(&folder).expect("every target has a corpus") {
        let path = entry.expect("the folder can be read").path();
        let bytes = std::fs::read(&path).expect("the file can be read");
        if std::panic::catch_unwind(|| check(&bytes)).is_err() {
            failed.push(path);
        }
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", folder.display());
    assert!(failed.is_empty(), "{failed:#?}");
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replayed(stringify!($target), outrigger_fuzz::$target::check);
            }
        )*

        #[test]
        fn every_corpus_has_a_target() {
            let targets = [$(stringify!($target)),*];
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
            for entry in std::fs::read_dir(folder).expect("there is a corpus") {
                let name = entry.expect("the folder can be read").file_name();
                assert!(targets.contains(&name.to_string_lossy().as_ref()), "{name:?}");
            }
        }
    };
}

replays! {
    cloudmap
    detect
    differential
    document
    h1_request
    h1_response
    h2_head
    replay
    xds
}
