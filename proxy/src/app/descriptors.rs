//! File descriptors: the limit is raised as far as it goes, and a shortfall is named before anybody meets it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::routing::snapshot::MAX_CONNECTIONS;

/// One listener full of clients, each with a connection to a task; and what a sidecar needs for itself.
const WANTED: u64 = 2 * MAX_CONNECTIONS as u64 + 1024;

/// Raises the soft limit to the hard one. What is wrong with it, if it is less than wanted.
pub(crate) fn raise() -> Option<String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    shortfall(now)
}

/// `None` is no limit at all.
fn shortfall(limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|limit| *limit < WANTED)?;
    Some(format!(
        "only {limit} file descriptors are allowed (RLIMIT_NOFILE): a listener full of {MAX_CONNECTIONS} connections needs {WANTED}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_what_a_full_listener_needs_is_named() {
        assert_eq!(shortfall(None), None);
        assert_eq!(shortfall(Some(WANTED)), None);
        let problem = shortfall(Some(1024)).expect("1024 are too few");
        assert!(
            problem.contains("1024") && problem.contains("21024"),
            "{problem}"
        );
    }
}
