//! The `ringfence` command.

use std::panic;
use std::process::{ExitCode, abort};

fn main() -> ExitCode {
    abort_on_panic();
    vmm::cli::main().into()
}

/// A panic on any thread is a bug in Ringfence: the process ends before anything else acts on half-changed state. Done
/// here and not by the profile, so that the command and the tests share what they are compiled from.
fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        abort();
    }));
}
