//! Ending by a signal.

use crate::{Result, during};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};

/// The signal called `text`: a name with or without SIG, or a number.
pub fn parse(text: &str) -> Result<Signal> {
    let known = match text.parse::<i32>() {
        Ok(number) => Signal::try_from(number),
        Err(_) if text.starts_with("SIG") => text.parse(),
        Err(_) => format!("SIG{text}").parse(),
    };
    known.map_err(|_| format!("unknown signal '{text}'"))
}

/// Ends this process by `sig`, whatever its caller had ignored or blocked.
pub fn end_by(sig: Signal) -> Result<()> {
    // SIGKILL and SIGSTOP have no disposition to set: their refusal is of no interest.
    let _ = default(sig);
    SigSet::from(sig).thread_unblock().map_err(during("unblock the signal"))?;
    raise(sig).map_err(during(format!("raise {sig}")))?;
    Err(format!("{sig} did not end this process"))
}

#[allow(unsafe_code)]
fn default(sig: Signal) -> nix::Result<SigHandler> {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { signal(sig, SigHandler::SigDfl) }
}
