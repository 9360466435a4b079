//! How a run says that its machine did not start, or was lost, and the exit code for that.

use crate::cli::output::Output;
use crate::error_chain;
use crate::observe::escape::escape;
use crate::session::StartError;
use crate::session::driver::DriverError;
use crate::session::exit_code::ExitCode;
use crate::session::interpreter::Outcome;

pub(super) fn start_failed(error: &StartError, output: &mut Output) -> ExitCode {
    let code = match error {
        StartError::Driver(error) => return lost("start", error, output),
        StartError::DriverEntry { status, .. } => {
            return lost("DriverEntry", &DriverError::Status(*status), output);
        }
        StartError::Image { .. }
        | StartError::Map { .. }
        | StartError::Unbound { .. }
        | StartError::MixedAbi { .. } => ExitCode::ImageRejected,
        StartError::Kvm(_) => ExitCode::KvmUnavailable,
        StartError::File { .. }
        | StartError::Files { .. }
        | StartError::NoFile(_)
        | StartError::NoDriver
        | StartError::NoDeviceDriver(_)
        | StartError::Windows(_)
        | StartError::Ring0Unavailable => ExitCode::Usage,
        StartError::Create(_)
        | StartError::Ports(_)
        | StartError::Memory(_)
        | StartError::Msrs(_)
        | StartError::Interrupts(_)
        | StartError::Vfio(_)
        | StartError::Dma(_)
        | StartError::Registry(_)
        | StartError::Device(_)
        | StartError::Privileges(_)
        | StartError::ProcessorShare(_)
        | StartError::Thread(_) => ExitCode::CommandFailed,
    };
    output.error(code, &escape(&error_chain(error)))
}

/// Whether a driver's code was executed before that.
pub(super) const fn has_run(error: &StartError) -> bool {
    matches!(
        error,
        StartError::Driver(_) | StartError::DriverEntry { .. } | StartError::Device(_)
    )
}

pub(super) fn lost(what: &str, error: &DriverError, output: &mut Output) -> ExitCode {
    let outcome = Outcome::driver_error(what, error);
    let _ = output.outcome(&outcome);
    outcome.exit
}
