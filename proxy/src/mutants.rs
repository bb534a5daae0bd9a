//! Safeguards that a debug build can be told to go without, so that a test shows what each one is for. A release build has them all.

use std::sync::OnceLock;

use clap::ValueEnum;

/// Read once, at the start; the value is mutants' names in kebab-case, with commas between.
const VARIABLE: &str = "OUTRIGGER_MUTANT";

/// A safeguard that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mutant {
    /// Nothing is tried a second time.
    NoRetry,
    /// What may have been delivered is tried again, whatever the method.
    RetryUnknownPosts,
    /// A drain does not tell the control server.
    SilentDrain,
    /// A drain tells it and waits for nobody: not for whoever still offers this task, nor for their connections to close.
    SkipAcknowledgements,
    /// Whatever waits to be accepted at the end is closed with its socket.
    LeaveAcceptQueue,
    /// Outlier detection ejects nobody.
    NoEjection,
    /// A hot restart closes the listening sockets instead of handing them over.
    ClosedAtRestart,
    /// A hot restart leaves nobody the time to finish.
    CutOffAtRestart,
    /// An egress speaks plain HTTP to everybody, as an older one would.
    PlainHop,
    /// An egress sends requests to an endpoint that has not proved who it is.
    HopWithoutProof,
    /// An ingress takes a hello meant for another, or with a wrong token.
    HopForAnybody,
    /// Fields of the hop are left in messages that came without one, and believed.
    HopUnstripped,
    /// An ingress says *undelivered* of everything that failed.
    HopBlindVerdict,
    /// An egress takes no notice of verdicts.
    HopDeafVerdict,
}

static CHOSEN: OnceLock<Vec<Mutant>> = OnceLock::new();

/// Takes the choice from the environment. Anything that cannot be honoured is an error, so that no proof is green by mistake.
pub fn choose() -> Result<(), String> {
    let Ok(names) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    if !cfg!(debug_assertions) {
        return Err(format!(
            "{VARIABLE}={names:?}: a release build leaves no safeguard out"
        ));
    }
    let mutant = |name: &str| {
        Mutant::from_str(name, false)
            .map_err(|error| format!("{VARIABLE}={names:?}: not a mutant's name: {error}"))
    };
    let mutants: Vec<_> = names.split(',').map(mutant).collect::<Result<_, _>>()?;
    tracing::warn!(?mutants, "safeguards are left out, for a test");
    CHOSEN
        .set(mutants)
        .map_err(|_| format!("{VARIABLE} is read once"))
}

/// Whether this safeguard is left out; never, and at no cost, in a release build.
#[inline]
pub(crate) fn is(mutant: Mutant) -> bool {
    cfg!(debug_assertions) && CHOSEN.get().is_some_and(|chosen| chosen.contains(&mutant))
}
