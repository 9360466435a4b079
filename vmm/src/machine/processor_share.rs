//! `--cpu`: the threads of a driver's process get a share of a processor together, and no more.
//!
//! All pay into one account: processor time that a thread has used moves the time on at which the share allows more, and the
//! thread sleeps until then. The thread that runs the guest does so by a timer that counts its own processor time
//! (timer_create(2) with CLOCK_THREAD_CPUTIME_ID; time in the guest is part of it) and signals it each [`QUANTUM`] that it
//! has used: nothing that the guest does gets around it. The others, which are woken by the guest, by clients or by what
//! device models wait for, do so between two pieces of work ([`pay`]), where no signal can disturb a system call. So the
//! limit needs no privileges and no cgroup, and an idle guest costs nothing.
//!
//! How long the guest was held back is counted ([`held_back`]), so that deadlines do not run meanwhile.
#![expect(
    unsafe_code,
    reason = "a timer on a thread's processor time, and its signal's handler, have no safe form"
)]

use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vmm_sys_util::signal::SIGRTMIN;

/// Processor time between two signals.
const QUANTUM: Duration = Duration::from_millis(5);
const QUANTUM_NANOSECONDS: u64 = 5_000_000;
/// The signal's number, of the real-time ones: the first two are the watchdog's and that of privileges.
const SIGNAL: i32 = 2;

/// Time that guests of this process were held back, in nanoseconds.
static HELD_BACK: AtomicU64 = AtomicU64::new(0);
/// The share of this process, in percent; 0: all that it can get.
static SHARE: AtomicU64 = AtomicU64::new(0);
/// The time, by the monotonic clock, until which what was used has used the share up.
static PAID_UNTIL: AtomicU64 = AtomicU64::new(0);

/// How long guests were held back so far, all together.
#[must_use]
pub fn held_back() -> Duration {
    Duration::from_nanos(HELD_BACK.load(Ordering::Relaxed))
}

/// A share of one processor, in percent: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorShare(u64);

impl FromStr for ProcessorShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim_end_matches('%')
            .parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent))
            .map(Self)
            .ok_or_else(|| "a share of one processor, 1 to 100 percent".to_owned())
    }
}

impl std::fmt::Display for ProcessorShare {
    /// As it is read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ProcessorShare {
    /// Time that must have passed for so much to be used, in nanoseconds.
    fn time_for(self, used: u64) -> u64 {
        used.saturating_mul(100).checked_div(self.0).unwrap_or(0)
    }
}

/// What a thread has paid for.
#[derive(Debug)]
struct Account {
    /// When it paid last, by the monotonic clock and by the thread's.
    began: AtomicU64,
    used: AtomicU64,
}

impl Account {
    fn of_this_thread() -> Self {
        Self {
            began: AtomicU64::new(now(libc::CLOCK_MONOTONIC)),
            used: AtomicU64::new(now(libc::CLOCK_THREAD_CPUTIME_ID)),
        }
    }
}

/// Pays for what the calling thread has used, if that is enough to be worth it. Threads that work for a driver call it between
/// two pieces of work.
pub(crate) fn pay() {
    thread_local! {
        static ACCOUNT: Account = Account::of_this_thread();
    }
    if SHARE.load(Ordering::Relaxed) == 0 {
        return;
    }
    ACCOUNT.with(|account| {
        let used = now(libc::CLOCK_THREAD_CPUTIME_ID);
        if used.saturating_sub(account.used.load(Ordering::Relaxed)) >= QUANTUM_NANOSECONDS {
            account.settle();
        }
    });
}

/// The limit of the thread that runs a guest, and of its process. Dropping it, on that thread, ends it.
#[derive(Debug)]
pub(crate) struct Limit {
    timer: libc::timer_t,
}

/// Limits the calling thread, which runs a guest, and the process.
///
/// # Errors
/// The handler or the timer cannot be made.
pub(crate) fn limit(share: ProcessorShare) -> io::Result<Limit> {
    let signal = SIGRTMIN() + SIGNAL;
    install(signal)?;
    // Never freed, because a signal may be on its way when the timer is deleted: a few bytes for each guest.
    let account: &'static Account = Box::leak(Box::new(Account::of_this_thread()));
    SHARE.store(share.0, Ordering::Relaxed);
    // SAFETY: all zeros is a valid `sigevent`: its fields are numbers and a pointer that may be null.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    event.sigev_value.sival_ptr = std::ptr::from_ref(account).cast_mut().cast();
    // SAFETY: gettid cannot fail.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: `event` is initialised, and `timer` is there to be written.
    let made = unsafe {
        libc::timer_create(
            libc::CLOCK_THREAD_CPUTIME_ID,
            &raw mut event,
            &raw mut timer,
        )
    };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    let limit = Limit { timer };
    let quantum = libc::timespec {
        tv_sec: 0,
        tv_nsec: libc::c_long::from(QUANTUM.subsec_nanos().cast_signed()),
    };
    let each = libc::itimerspec {
        it_interval: quantum,
        it_value: quantum,
    };
    // SAFETY: the timer was made above, and `each` is initialised.
    if unsafe { libc::timer_settime(timer, 0, &raw const each, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

impl Drop for Limit {
    fn drop(&mut self) {
        SHARE.store(0, Ordering::Relaxed);
        // SAFETY: the timer was made by `limit`, and is deleted here alone.
        unsafe { libc::timer_delete(self.timer) };
    }
}

fn install(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // What else is signalled to the thread waits: the watchdog would end the sleep each millisecond.
    // SAFETY: the mask is there to be written.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    // SAFETY: the handler does what handlers may do, and `action` is initialised.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A clock, in nanoseconds. A system call at most: the signal handler calls it.
fn now(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is there to be written; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let (seconds, rest) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// Sleeps until that time of the monotonic clock. Every signal is blocked meanwhile.
fn sleep_until(time: u64) {
    let time = libc::timespec {
        tv_sec: (time / 1_000_000_000).cast_signed(),
        tv_nsec: (time % 1_000_000_000).cast_signed(),
    };
    let clock = libc::CLOCK_MONOTONIC;
    // SAFETY: `time` is initialised, and nothing is written for an absolute time.
    while unsafe {
        libc::clock_nanosleep(
            clock,
            libc::TIMER_ABSTIME,
            &raw const time,
            std::ptr::null_mut(),
        )
    } == libc::EINTR
    {}
}

extern "C" fn on_signal(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: errno is the thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: the kernel passes a siginfo to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    if info.si_code == libc::SI_TIMER {
        // SAFETY: a timer's signal has a value.
        let value = unsafe { info.si_value() };
        let account = value.sival_ptr.cast::<Account>().cast_const();
        // SAFETY: timers with this signal are made by `limit` alone, whose accounts are never freed. Who can forge such
        // a signal may also write this process's memory.
        if let Some(account) = unsafe { account.as_ref() } {
            let held = account.settle();
            HELD_BACK.fetch_add(held, Ordering::Relaxed);
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

impl Account {
    /// On the account's thread: pays for what it has used since the last time, and sleeps until the share allows more. How
    /// long it slept, in nanoseconds.
    fn settle(&self) -> u64 {
        let share = ProcessorShare(SHARE.load(Ordering::Relaxed));
        let (time, used) = (
            now(libc::CLOCK_MONOTONIC),
            now(libc::CLOCK_THREAD_CPUTIME_ID),
        );
        let used_now = used.saturating_sub(self.used.load(Ordering::Relaxed));
        let began = self.began.load(Ordering::Relaxed);
        let charge = share.time_for(used_now);
        // What nobody has used before this thread's last payment is lost: there is no saving up.
        let next = |until: u64| until.max(began).saturating_add(charge);
        let before = PAID_UNTIL
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |until| {
                Some(next(until))
            })
            .unwrap_or_else(|until| until);
        let until = next(before);
        let mut after = time;
        if share.0 != 0 && until > time {
            sleep_until(until);
            after = now(libc::CLOCK_MONOTONIC);
        }
        self.began.store(after, Ordering::Relaxed);
        self.used
            .store(now(libc::CLOCK_THREAD_CPUTIME_ID), Ordering::Relaxed);
        after.saturating_sub(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn shares_are_percent() {
        assert_eq!("25".parse(), Ok(ProcessorShare(25)));
        assert_eq!("100%".parse(), Ok(ProcessorShare(100)));
        for bad in ["", "0", "101", "-5", "x", "1.5"] {
            assert!(bad.parse::<ProcessorShare>().is_err(), "{bad}");
        }
        assert_eq!(ProcessorShare(20).time_for(5), 25);
    }

    /// One test: the limit is the process's.
    #[test]
    fn threads_get_no_more_than_their_share_together() {
        let began = Instant::now();
        let spin = |each: fn()| {
            let before = now(libc::CLOCK_THREAD_CPUTIME_ID);
            let used = || now(libc::CLOCK_THREAD_CPUTIME_ID) - before;
            while used() < 60_000_000 {
                each();
            }
            used()
        };
        let guest = std::thread::spawn(move || {
            let _limit = limit(ProcessorShare(20)).unwrap();
            let other = std::thread::spawn(move || spin(pay));
            // What both had used when they were last held back, at least: all but a quantum and a tick each.
            [spin(std::hint::spin_loop), other.join().unwrap()]
                .map(|used| used.saturating_sub(20_000_000))
        });
        let settled: u64 = guest.join().unwrap().iter().sum();
        let elapsed = began.elapsed();
        assert!(
            elapsed.as_nanos() >= u128::from(settled) * 5,
            "{settled} ns in {elapsed:?}"
        );
        assert!(held_back() > Duration::ZERO);
    }
}
