//! Giving privileges up: what the policy names is open, and from here on nothing more can be opened by them.
//!
//! Capabilities belong to threads, and a thread can change its own alone. So each thread is told by a signal, whose
//! handler gives them up there; what /proc/self/task says then is the proof.
#![expect(
    unsafe_code,
    reason = "capset(2), prctl(2) and a signal for each thread have no safe form"
)]

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use vmm_sys_util::signal::SIGRTMIN;

/// CAP_DAC_OVERRIDE, of linux/capability.h.
const DAC_OVERRIDE: u32 = 1 << 1;
/// _LINUX_CAPABILITY_VERSION_3: two words of each set.
const VERSION: u32 = 0x2008_0522;
/// Between two looks: at first about what a thread needs.
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// How long threads may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lower word of the capabilities that stay.
static KEPT: AtomicU32 = AtomicU32::new(0);

/// What stays of the process's privileges while the guest runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confinement {
    /// No capability.
    Nothing,
    /// Of those that the process has, CAP_DAC_OVERRIDE: it goes on to open or remove files that its user has named, and
    /// root is to reach those of other users.
    Files,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets `no_new_privs` and drops capabilities on every thread of the process.
///
/// # Errors
/// It cannot be done, or not on every thread.
pub(super) fn confine(confinement: Confinement) -> io::Result<()> {
    let kept = match confinement {
        Confinement::Nothing => 0,
        Confinement::Files => DAC_OVERRIDE,
    };
    KEPT.store(kept, Ordering::SeqCst);
    give_up(kept)?;
    let signal = install()?;
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let threads = privileged_threads(kept)?;
        if threads.is_empty() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("thread(s) {threads:?} keep them")));
        }
        let process = std::process::id();
        for thread in threads {
            // SAFETY: a signal with a handler to a thread of this process; one that has ended is an error.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Threads that have more capabilities than these, or may get some by executing a program.
fn privileged_threads(kept: u32) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        // One that has ended meanwhile has none.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (false, Some(number)) = (is_confined(&status, kept), number) {
            threads.push(number);
        }
    }
    Ok(threads)
}

/// By /proc/PID/task/TID/status.
fn is_confined(status: &str, kept: u32) -> bool {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let has_only_kept = ["CapEff", "CapPrm"].into_iter().all(|name| {
        field(name)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .is_some_and(|set| set & !u64::from(kept) == 0)
    });
    has_only_kept && field("NoNewPrivs") == Some("1")
}

/// Installs the handler; returns the signal.
fn install() -> io::Result<libc::c_int> {
    let signal = SIGRTMIN() + 1;
    // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
    // Calls that a thread waits in go on.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does what handlers may do, and `action` is initialised.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(signal)
}

extern "C" fn on_signal(_: libc::c_int) {
    // SAFETY: errno is the thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // Whoever sent the signal looks whether it has worked.
    let _ = give_up(KEPT.load(Ordering::SeqCst)).is_ok();
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// On the calling thread. System calls only: a signal handler calls it.
fn give_up(kept: u32) -> io::Result<()> {
    // SAFETY: prctl with four numbers; it changes a flag of the thread.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: the kernel reads a header and writes two words of each set, as version 3 has them.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = &mut data;
    let kept = low.permitted & kept;
    *low = Data {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    };
    *high = Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    };
    // SAFETY: the kernel reads a header and two words of each set.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tvcpu\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000002\n\
                          CapEff:\t0000000000000002\nNoNewPrivs:\t1\n";

    #[test]
    fn a_threads_status_tells_what_it_has() {
        assert!(is_confined(STATUS, DAC_OVERRIDE));
        assert!(!is_confined(STATUS, 0));
        let may_gain = STATUS.replace("Privs:\t1", "Privs:\t0");
        assert!(!is_confined(&may_gain, DAC_OVERRIDE));
        let high = STATUS.replace("CapEff:\t00000000", "CapEff:\t00000100");
        assert!(!is_confined(&high, DAC_OVERRIDE));
        assert!(!is_confined("", 0));
    }
}
