//! The wings of the sidecar depend one way (DESIGN section 3): an arrow against it fails here, naming file and line.

use std::fs;
use std::path::{Path, PathBuf};

/// What each wing may use, itself aside. `app` and `main` know everything.
const MAY_USE: [(&str, &[&str]); 23] = [
    (
        "downstream",
        &[
            "tls",
            "request",
            "hop",
            "http1",
            "http2",
            "message",
            "routing",
            "upstream",
            "drain",
            "deadline",
            "observe::metrics",
            "config",
            "error",
        ],
    ),
    (
        "mesh",
        &[
            "tls",
            "routing",
            "upstream",
            "observe::ready",
            "observe::metrics",
            "config",
            "error",
        ],
    ),
    (
        "observe/admin",
        &["observe::ready", "routing", "upstream", "config", "error"],
    ),
    ("observe/ready", &[]),
    ("observe/metrics", &["error", "config"]),
    ("observe/mod", &[]),
    (
        "request",
        &[
            "tls",
            "routing",
            "hop",
            "http1",
            "http2",
            "message",
            "upstream",
            "policy",
            "observe::metrics",
            "drain",
            "date",
            "deadline",
            "spare",
            "config",
            "error",
        ],
    ),
    (
        "routing",
        &[
            "tls",
            "upstream",
            "policy",
            "observe::metrics",
            "message",
            "config",
            "error",
        ],
    ),
    (
        "upstream",
        &[
            "tls",
            "policy",
            "hop",
            "observe::metrics",
            "deadline",
            "http1",
            "http2",
            "message",
            "config",
            "error",
        ],
    ),
    ("http1", &["tls", "message", "error"]),
    ("http2", &["tls", "hop", "message", "error"]),
    // Both ends of it, whoever they are.
    ("hop", &["message", "policy", "error"]),
    ("message", &["error"]),
    ("drain", &["error"]),
    ("date", &["message"]),
    ("deadline", &["error"]),
    ("spare", &[]),
    ("tls", &["config", "error"]),
    ("restart", &[]),
    // The service-connect document is part of the command line: its model lives with its parser, in mesh.
    (
        "config",
        &["mesh::document", "mesh::state", "restart", "error"],
    ),
    // Whose fault an error is belongs to the retry classes.
    ("error", &["policy"]),
    // No I/O, no clock: the simulator runs it in virtual time.
    ("policy", &[]),
    ("lib", &[]),
];

/// Within `upstream`: clusters › cluster › health, pool › {h2, h1, connect} › resolve, where later ones are lower; whoever connects
/// asks the cluster how.
const UPSTREAM_MAY_USE: [(&str, &[&str]); 9] = [
    ("clusters", &["cluster", "resolve"]),
    ("pool", &["cluster", "keepalive", "h1", "h2", "connect"]),
    ("cluster", &["health"]),
    ("health", &[]),
    ("h2", &["h1"]),
    ("h1", &["keepalive"]),
    ("keepalive", &[]),
    ("connect", &["cluster"]),
    ("resolve", &[]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source folder can be read") {
        let path = entry.expect("a folder entry can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn wing_of(relative: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let stem = relative.trim_end_matches(".rs");
    MAY_USE
        .iter()
        .find(|(wing, _)| stem == *wing || stem.starts_with(&format!("{wing}/")))
}

#[test]
fn no_wing_uses_one_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file
            .strip_prefix(&root)
            .expect("found below the root")
            .to_string_lossy()
            .into_owned();
        if relative == "main.rs"
            || relative == "micro.rs"
            || relative == "mutants.rs"
            || relative.starts_with("fuzzing")
            || relative.starts_with("app")
            || relative.ends_with("tests.rs")
        {
            continue;
        }
        let Some((wing, allowed)) = wing_of(&relative) else {
            wrong.push(format!("{relative}: in no wing"));
            continue;
        };
        let own = wing.replace('/', "::");
        let text = fs::read_to_string(&file).expect("a source file can be read");
        for (number, line) in production(&text) {
            for used in line.split("crate::").skip(1) {
                let may = |wing: &&str| {
                    used.starts_with(&format!("{wing}::")) || used.starts_with(&format!("{wing};"))
                };
                // A safeguard is left out where it is.
                let everywhere = may(&"mutants");
                if !may(&own.as_str()) && !everywhere && !allowed.iter().any(may) {
                    wrong.push(format!("{relative}:{number}: {}", line.trim()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the direction of dependencies:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn within_upstream_the_arrows_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/upstream");
    let mut wrong = Vec::new();
    for (module, allowed) in UPSTREAM_MAY_USE {
        let text =
            fs::read_to_string(root.join(format!("{module}.rs"))).expect("the module exists");
        for (number, line) in production(&text) {
            let Some(used) = line.trim().strip_prefix("use super::") else {
                continue;
            };
            let used = used.split([':', ';', '{']).next().unwrap_or_default();
            if !used.is_empty() && !allowed.contains(&used) {
                wrong.push(format!("upstream/{module}.rs:{number}: {}", line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the direction of dependencies:\n{}",
        wrong.join("\n")
    );
}

/// The policy core is what the simulator runs: it neither waits nor asks a clock.
#[test]
fn the_policy_core_does_no_io_and_has_no_clock() {
    const BEYOND: [&str; 6] = [
        "tokio",
        "std::io",
        "std::fs",
        "Instant",
        "SystemTime",
        "sleep",
    ];
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy"),
        &mut files,
    );
    assert!(!files.is_empty(), "the policy core has moved");
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let code = production(&text).filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (number, line) in code {
            if BEYOND.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "beyond the policy core:\n{}",
        wrong.join("\n")
    );
}

/// Lines before the tests.
fn production(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    lines.take_while(|(_, line)| !line.ends_with("mod tests {"))
}
