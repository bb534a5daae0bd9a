//! Who may call a service, and for what: its allow-list, made ready when configuration is applied. No I/O.

use http::Method;
use outrigger_xds::identity::{Access, Authorization, Caller, SpiffeId};

/// Who calls, as a certificate proved it to us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met<'a> {
    pub(crate) caller: &'a SpiffeId,
    /// Who we are on that connection: callers are named by the callee's trust domain and namespace.
    pub(crate) own: Option<&'a SpiffeId>,
}

/// Why nothing allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The caller has proved no identity: plaintext, or a certificate without a SPIFFE id.
    NoIdentity,
    /// No rule has this caller with this method and path.
    NoRule,
}

impl Reason {
    /// The word in metrics and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::NoRule => "no_rule",
        }
    }
}

/// What becomes of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// By the rule at this place, or by the default.
    Allowed(Option<usize>),
    Refused(Reason),
    /// It passes, as this is a dry run.
    WouldBeRefused(Reason),
}

/// A service's [`Authorization`].
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    default: Access,
    dry_run: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    from: Vec<Caller>,
    methods: Vec<Method>,
    paths: Vec<String>,
    /// It has methods or paths, which a connection of opaque bytes has not.
    of_requests: bool,
}

impl Allowed {
    pub(crate) fn new(authorization: &Authorization) -> Self {
        let rules = authorization.allow.iter().map(|rule| Rule {
            from: rule.from.clone(),
            // What is no method is that of no request.
            methods: rule.methods.iter().flat_map(|name| name.parse()).collect(),
            paths: rule.paths.clone(),
            of_requests: !(rule.methods.is_empty() && rule.paths.is_empty()),
        });
        Self {
            default: authorization.default,
            dry_run: authorization.dry_run,
            rules: rules.collect(),
        }
    }

    /// Whether a request may pass. `path` is the target's without its query; of `OPTIONS *` it is `*`.
    pub(crate) fn request(&self, met: Option<Met<'_>>, method: &Method, path: &[u8]) -> Verdict {
        let mut normal = None;
        let mut under = |prefix: &String| {
            is_under(path, prefix) && *normal.get_or_insert_with(|| is_normal(path))
        };
        self.judge(met, |rule| {
            !rule.of_requests
                || ((rule.methods.is_empty() || rule.methods.contains(method))
                    && (rule.paths.is_empty() || rule.paths.iter().any(&mut under)))
        })
    }

    /// Whether there is anything that it may ask for.
    pub(crate) fn lists(&self, met: Option<Met<'_>>) -> bool {
        self.default == Access::Allow
            || self.dry_run
            || met.is_some_and(|met| self.rules.iter().any(|rule| rule.has(met)))
    }

    /// Whether a connection of opaque bytes may pass.
    pub(crate) fn connection(&self, met: Option<Met<'_>>) -> Verdict {
        self.judge(met, |rule| !rule.of_requests)
    }

    fn judge(&self, met: Option<Met<'_>>, mut asked: impl FnMut(&Rule) -> bool) -> Verdict {
        let reason = match met {
            None => Reason::NoIdentity,
            Some(met) => {
                let mut rules = self.rules.iter();
                let place = rules.position(|rule| rule.has(met) && asked(rule));
                if place.is_some() {
                    return Verdict::Allowed(place);
                }
                Reason::NoRule
            }
        };
        match self.default {
            Access::Allow => Verdict::Allowed(None),
            Access::Deny if self.dry_run => Verdict::WouldBeRefused(reason),
            Access::Deny => Verdict::Refused(reason),
        }
    }
}

impl Rule {
    fn has(&self, met: Met<'_>) -> bool {
        self.from.iter().any(|caller| match (caller, met.own) {
            (Caller::Id(id), _) => id == met.caller,
            (caller, Some(own)) => caller.is(met.caller, own),
            (_, None) => false,
        })
    }
}

/// Prefixes are of whole segments, unless they end in a slash.
fn is_under(path: &[u8], prefix: &str) -> bool {
    path.strip_prefix(prefix.as_bytes())
        .is_some_and(|rest| prefix.ends_with('/') || matches!(rest, [] | [b'/', ..]))
}

/// Whether everybody who reads the path sees the same segments in it (RFC 3986 section 6.2.2): else `/public/../admin` would be
/// under `/public` here, and not in the application.
fn is_normal(path: &[u8]) -> bool {
    let Some(path) = path.strip_prefix(b"/") else {
        return false;
    };
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let empty = segment.is_empty() && segments.peek().is_some();
        if empty || !is_plain(segment) {
            return false;
        }
    }
    true
}

fn is_plain(segment: &[u8]) -> bool {
    // Servlet containers look at the dots without what follows a semicolon.
    let name = segment.split(|byte| *byte == b';').next();
    let dots = matches!(name, Some(b"." | b".."));
    let mut escapes = memchr::memchr_iter(b'%', segment);
    !dots
        && segment
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\')
        && escapes.all(|at| is_plain_escape(&segment[at + 1..]))
}

/// Whether two digits follow a percent sign, and stand for nothing that makes segments, nor for another percent sign, as somebody may
/// decode twice; nor for a control character or what no UTF-8 has, as old decoders make a dot of C0 AE.
fn is_plain_escape(code: &[u8]) -> bool {
    let follows = |least| {
        let next = code.get(2..).and_then(|rest| rest.strip_prefix(b"%"));
        next.and_then(escaped).is_some_and(|next| next >= least)
    };
    match escaped(code) {
        None | Some(0..=0x1F | 0x7F | 0xC0 | 0xC1 | 0xF5..) => false,
        // Less than these would be a longer way to write what is shorter (RFC 3629 section 4).
        Some(0xE0) => follows(0xA0),
        Some(0xF0) => follows(0x90),
        Some(byte) => !b"%./\\;".contains(&byte),
    }
}

fn escaped(code: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (high, low) = (digit(code.first()?)?, digit(code.get(1)?)?);
    u8::try_from(high << 4 | low).ok()
}

#[cfg(test)]
mod tests;
