//! The faults, and what should come of each, in numbers that can be checked.

use crate::origin::Manner;

/// Requests of one sort that one task can have spoilt before it is ejected: five failures in a row eject it (Service Connect's rule),
/// and what is under way to it by then fails as well.
const UNTIL_EJECTED: u64 = 16;

/// What befalls a task, the first of three unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL
    Kill,
    /// SIGSTOP; at the end SIGCONT
    Freeze,
    /// Resets each connection it accepts
    ResetOnAccept,
    /// Accepts and says nothing
    Mute,
    /// Acts upon each request and breaks the connection instead of answering
    Break,
    /// SIGKILL to the application; the sidecar beside it lives, as every task has one here
    AppKill,
    /// Acts upon each request and breaks off, behind a sidecar that lives
    AppBreak,
    /// Killed and started again, over and over
    Flapping,
    /// Answers 503 to everything
    Unavailable,
    /// Every task answers 503 to everything
    AllUnavailable,
    /// Two of four tasks are 200 ms away, in another zone
    FarZone,
    /// SIGKILL to both tasks of the caller's zone; the two others are 200 ms away
    ZoneLost,
    /// Vanishes: half-open connections (iptables DROP)
    HalfOpen,
    /// Loses a tenth of the packets that come (iptables statistic)
    Loss,
    /// Answers every segment with a reset (iptables REJECT)
    Reject,
    /// Sends 1 Mbit/s (tc tbf), answers of 20 kB
    Bandwidth,
}

/// What should come of it; whatever it is, no POST is acted upon twice.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Expected {
    /// At most so many GETs fail.
    pub get_failures: Bound,
    /// At most so many POSTs fail.
    pub post_failures: Bound,
    /// At most so many attempts per request.
    pub attempts: f64,
    /// At most this share of the answers comes from the struck tasks.
    pub faulty_share: f64,
}

/// How many may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// So many at most.
    AtMost(u64),
    /// All that are sent after the fault.
    All,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(0) => f.write_str("none"),
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl Fault {
    /// In a few words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Kill => "one task: SIGKILL",
            Self::Freeze => "one task: SIGSTOP",
            Self::ResetOnAccept => "one task: RST on accept",
            Self::Mute => "one task: accepts, is mute",
            Self::Break => "one task: acts, then breaks off",
            Self::AppKill => "behind a sidecar: SIGKILL",
            Self::AppBreak => "behind a sidecar: acts, breaks off",
            Self::Flapping => "one task: killed and restarted",
            Self::Unavailable => "one task: 503 to everything",
            Self::AllUnavailable => "all tasks: 503 to everything",
            Self::FarZone => "one zone: 200 ms away",
            Self::ZoneLost => "the caller's zone: SIGKILL",
            Self::HalfOpen => "one task: vanishes, half-open",
            Self::Loss => "one task: 10 % packet loss",
            Self::Reject => "one task: REJECT",
            Self::Bandwidth => "one task: 1 Mbit/s",
        }
    }

    /// Whether it takes hosts of their own.
    pub fn needs_network(self) -> bool {
        match self {
            Self::HalfOpen | Self::Loss | Self::Reject | Self::Bandwidth => true,
            Self::Kill
            | Self::AppKill
            | Self::AppBreak
            | Self::Freeze
            | Self::ResetOnAccept
            | Self::Mute
            | Self::Break
            | Self::Flapping
            | Self::Unavailable
            | Self::AllUnavailable
            | Self::FarZone
            | Self::ZoneLost => false,
        }
    }

    /// Whether a sidecar stands beside each task, to which the caller's speaks the hop protocol.
    pub(super) fn behind_sidecars(self) -> bool {
        matches!(self, Self::AppKill | Self::AppBreak)
    }

    /// How the struck tasks treat everybody, from their start.
    pub(super) fn manner(self) -> Manner {
        match self {
            Self::ResetOnAccept => Manner::Reset,
            Self::Mute => Manner::Mute,
            Self::Break | Self::AppBreak => Manner::Break,
            Self::Unavailable | Self::AllUnavailable => Manner::Unavailable,
            _ => Manner::Well,
        }
    }

    /// What should come of it.
    ///
    /// A GET is tried elsewhere after every fault that shows; it fails only where time has run out. A POST is tried elsewhere when it
    /// was surely not delivered, and is told as failed when nobody can know.
    pub fn expected(self) -> Expected {
        let none = Expected {
            get_failures: Bound::AtMost(0),
            post_failures: Bound::AtMost(0),
            attempts: 1.1,
            faulty_share: 1.0,
        };
        let unknown = Expected {
            post_failures: Bound::AtMost(UNTIL_EJECTED),
            ..none
        };
        match self {
            // Each death leaves some POSTs in doubt; between two of them refused connects are undelivered.
            Self::Kill
            | Self::AppKill
            | Self::AppBreak
            | Self::ResetOnAccept
            | Self::Break
            | Self::Flapping
            | Self::Reject
            | Self::Unavailable => unknown,
            // Two tasks die at once, and one of them may be the second try of what the other one refused.
            Self::ZoneLost => Expected {
                attempts: 1.2,
                ..unknown
            },
            // Each attempt has a time of its own, after which a GET goes elsewhere; a POST may have been acted upon.
            Self::Freeze | Self::Mute | Self::HalfOpen => unknown,
            // TCP repairs it; a connect that loses its first segment takes a second, and may be tried elsewhere.
            Self::Loss => Expected {
                get_failures: Bound::AtMost(2),
                post_failures: Bound::AtMost(2),
                attempts: 1.2,
                ..none
            },
            Self::Bandwidth => Expected {
                faulty_share: 0.2,
                ..none
            },
            // Three attempts for each GET and one for each POST; there may be some more of the first.
            Self::AllUnavailable => Expected {
                get_failures: Bound::All,
                post_failures: Bound::All,
                attempts: 2.05,
                ..none
            },
            // The near zone has the part of its callers, so that it keeps them.
            Self::FarZone => Expected {
                faulty_share: 0.15,
                ..none
            },
        }
    }
}
