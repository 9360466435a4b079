//! How a command ends, as the process's exit code and in replies.

/// Exit codes of `ringfence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Success.
    Success = 0,
    /// A command failed; the NTSTATUS was printed.
    CommandFailed = 1,
    /// The arguments, a script, a policy or a command are not well formed.
    Usage = 2,
    /// The driver's image was rejected.
    ImageRejected = 3,
    /// The driver crashed; the crash report was printed.
    DriverCrashed = 4,
    /// KVM cannot be used.
    KvmUnavailable = 5,
    /// The driver did not answer in time.
    TimedOut = 6,
}

impl ExitCode {
    /// As a number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// From a reply's number; anything unknown is a failure.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Success,
            2 => Self::Usage,
            3 => Self::ImageRejected,
            4 => Self::DriverCrashed,
            5 => Self::KvmUnavailable,
            6 => Self::TimedOut,
            _ => Self::CommandFailed,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.number().into()
    }
}
