//! Device interrupts: from a line that the VMM raises ([`abi::interrupt`]) to the service routines that are connected.
//!
//! [`deliver`] is called where deferred work is: on the way out of an API call, by the idle thread, and by the gate that
//! an injected interrupt enters by. It delivers what the current IRQL lets in, the highest IRQL first; the rest waits
//! until IRQL drops. A line whose routines have returned is looked at again, as after an end of interrupt: a
//! level-sensitive one is delivered again while it is asserted. Edges of lines that nobody is connected to are lost.

use alloc::format;
use core::sync::atomic::{AtomicBool, Ordering};

use super::interrupt::{self, LATCHED};
use crate::ke::{sched, time};
use crate::raw::Global;
use crate::{main_loop, shared};
use abi::interrupt::LINES;

/// A line that stays asserted though its routines disclaim it is masked after this many deliveries in a row ...
const UNCLAIMED_MAX: u32 = 10_000;
/// ... if they took at least this long, in units of 100 ns: whoever releases the line may be another process.
const UNCLAIMED_TIME: u64 = 1_000_000;

/// Deliveries of a line in a row that nobody claimed.
#[derive(Clone, Copy, Debug)]
struct Streak {
    count: u32,
    since: u64,
}

const NO_STREAK: Streak = Streak { count: 0, since: 0 };

static STREAKS: Global<[Streak; LINES as usize]> =
    Global::new("unclaimed interrupts", [NO_STREAK; LINES as usize]);

/// An interrupt waits for a lower IRQL, or for `sti`.
static IS_BLOCKED: AtomicBool = AtomicBool::new(false);

pub(super) fn initialize() {
    STREAKS.with(|streaks| *streaks = [NO_STREAK; LINES as usize]);
    IS_BLOCKED.store(false, Ordering::Relaxed);
}

/// What is connected to a line has changed: it is delivered again, and looked at soon.
pub(super) fn changed(line: u32) {
    let lines = shared::interrupt_lines();
    shared::set_masked_lines(lines.masked & !(1 << line));
    forget_streak(line);
    IS_BLOCKED.store(true, Ordering::Relaxed);
    sched::request_attention();
}

/// Forgets an edge of a line.
pub(super) fn drop_edge(line: u32) {
    shared::take_edges(shared::interrupt_lines().edges() & (1 << line));
}

/// Delivers pending interrupts above the current IRQL. Does nothing, at the cost of a load, when there is none.
pub(crate) fn deliver() {
    if shared::interrupt_due() == 0 && !IS_BLOCKED.load(Ordering::Relaxed) {
        return;
    }
    // Before the look: what comes afterwards sets it again.
    shared::set_interrupt_due(0);
    IS_BLOCKED.store(false, Ordering::Relaxed);
    while let Some((line, level)) = best() {
        if level <= shared::irql() || shared::interrupts_masked() != 0 {
            IS_BLOCKED.store(true, Ordering::Relaxed);
            sched::request_attention();
            return;
        }
        deliver_line(line);
    }
}

/// The pending line of the highest IRQL, with it.
fn best() -> Option<(u32, u8)> {
    let lines = shared::interrupt_lines();
    let edges = lines.edges();
    let pending = (edges | lines.asserted) & !lines.masked;
    let mut unconnected = edges;
    let mut best: Option<(u32, u8)> = None;
    if pending != 0 {
        interrupt::with_connected(|line, object| {
            let bit = 1_u64 << line;
            unconnected &= !bit;
            // A latched interrupt is an edge; a level-sensitive one is a level, or a pulse that was too short to be seen.
            let is_pending = if object.Mode == LATCHED {
                edges & bit != 0
            } else {
                pending & bit != 0
            };
            let is_better = best.is_none_or(|(_, irql)| irql < object.Irql);
            if is_pending && lines.masked & bit == 0 && is_better {
                best = Some((line, object.Irql));
            }
        });
    }
    if unconnected != 0 {
        shared::take_edges(unconnected);
    }
    best
}

fn deliver_line(line: u32) {
    let bit = 1_u64 << line;
    let before = shared::interrupt_lines();
    shared::take_edges(before.edges() & bit);
    let was_claimed = interrupt::run_chain(line);
    let is_held = before.asserted & shared::interrupt_lines().asserted & bit != 0;
    if was_claimed || !is_held {
        forget_streak(line);
    } else {
        unclaimed(line);
    }
}

fn forget_streak(line: u32) {
    STREAKS.with(|streaks| {
        if let Some(streak) = streaks.get_mut(line as usize) {
            *streak = NO_STREAK;
        }
    });
}

/// Nobody claimed an interrupt of a line that is still asserted.
fn unclaimed(line: u32) {
    let now = time::interrupt_time();
    let is_too_long = STREAKS.with(|streaks| {
        let Some(streak) = streaks.get_mut(line as usize) else {
            return false;
        };
        if streak.count == 0 {
            streak.since = now;
        }
        streak.count = streak.count.saturating_add(1);
        streak.count >= UNCLAIMED_MAX && now.saturating_sub(streak.since) >= UNCLAIMED_TIME
    });
    if is_too_long {
        shared::set_masked_lines(shared::interrupt_lines().masked | 1 << line);
        main_loop::finding(
            &[u64::from(line)],
            &format!(
                "interrupt line {line} stays asserted and no service routine claims it: \
                 it is ignored until a driver connects or disconnects an interrupt of this line"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::interrupt::{LEVEL_SENSITIVE, Wanted, connect};
    use crate::raw::{Ptr, volatile_write};
    use crate::test_platform::{Machine, api, machine};
    use abi::interrupt::InterruptLines;
    use abi::layout::Shared;
    use std::sync::atomic::AtomicU32;

    static CALLS: AtomicU32 = AtomicU32::new(0);

    /// What the VMM does.
    fn raise(machine: &Machine, change: impl FnOnce(&mut InterruptLines)) {
        let mut lines = shared::interrupt_lines();
        change(&mut lines);
        let at = machine.kernel_base() + abi::layout::SHARED + Shared::INTERRUPTS;
        volatile_write(at, lines);
        shared::set_interrupt_due(1);
    }

    fn wanted(line: u32, mode: u8, routine: extern "win64-unwind" fn(u64, u64) -> u64) -> Wanted {
        let (vector, irql) = interrupt::vector_of(line).unwrap();
        Wanted {
            routine: Ptr::new(routine as *const () as u64),
            context: Ptr::new(u64::from(line)),
            lock: Ptr::null(),
            vector,
            irql,
            synchronize_irql: irql,
            mode,
            share: true,
        }
    }

    extern "win64-unwind" fn count(_: u64, _: u64) -> u64 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        1
    }

    extern "win64-unwind" fn disclaim(_: u64, _: u64) -> u64 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        0
    }

    /// Claims five times, then lets its line go.
    extern "win64-unwind" fn release(_: u64, line: u64) -> u64 {
        if CALLS.fetch_add(1, Ordering::Relaxed) >= 4 {
            let at = shared::platform().shared() + Shared::INTERRUPTS;
            let mut lines = shared::interrupt_lines();
            lines.asserted &= !(1 << line);
            volatile_write(at, lines);
        }
        1
    }

    fn calls() -> u32 {
        crate::ke::deliver_deferred();
        CALLS.swap(0, Ordering::Relaxed)
    }

    #[test]
    fn an_edge_is_delivered_once_and_a_level_until_it_ends() {
        let machine = machine();
        CALLS.store(0, Ordering::Relaxed);
        connect(&wanted(5, LATCHED, count)).unwrap();
        connect(&wanted(9, LEVEL_SENSITIVE, release)).unwrap();
        assert_eq!(calls(), 0);
        raise(&machine, |lines| lines.raised ^= 1 << 5);
        assert_eq!(calls(), 1);
        assert_eq!(calls(), 0);
        // A latched line that stays high is one edge.
        raise(&machine, |lines| {
            lines.raised ^= 1 << 5;
            lines.asserted |= 1 << 5;
        });
        assert_eq!(calls(), 1);
        raise(&machine, |lines| lines.asserted |= 1 << 9);
        assert_eq!(calls(), 5);
        assert_eq!(calls(), 0);
        // A pulse reaches a level-sensitive interrupt too.
        raise(&machine, |lines| lines.raised ^= 1 << 9);
        assert_eq!(calls(), 1);
    }

    #[test]
    fn an_interrupt_waits_for_its_irql() {
        let machine = machine();
        CALLS.store(0, Ordering::Relaxed);
        connect(&wanted(5, LATCHED, count)).unwrap();
        let (_, level) = interrupt::vector_of(5).unwrap();
        let old = crate::ke::irql::raise(level);
        raise(&machine, |lines| lines.raised ^= 1 << 5);
        assert_eq!(calls(), 0);
        crate::ke::irql::lower(2);
        assert_eq!(calls(), 1, "DISPATCH_LEVEL does not hold it back");
        crate::ke::irql::lower(old);
        shared::set_interrupts_masked(1);
        raise(&machine, |lines| lines.raised ^= 1 << 5);
        assert_eq!(calls(), 0);
        shared::set_interrupts_masked(0);
        assert_eq!(calls(), 1);
    }

    #[test]
    fn edges_without_a_routine_are_lost() {
        let machine = machine();
        CALLS.store(0, Ordering::Relaxed);
        raise(&machine, |lines| lines.raised ^= 1 << 5);
        assert_eq!(calls(), 0);
        connect(&wanted(5, LATCHED, count)).unwrap();
        assert_eq!(calls(), 0);
        // A level that was there before is seen.
        raise(&machine, |lines| lines.asserted |= 1 << 9);
        assert_eq!(calls(), 0);
        connect(&wanted(9, LEVEL_SENSITIVE, release)).unwrap();
        assert_eq!(calls(), 5);
    }

    #[test]
    fn a_line_that_nobody_claims_is_masked() {
        let machine = machine();
        CALLS.store(0, Ordering::Relaxed);
        let interrupt = connect(&wanted(9, LEVEL_SENSITIVE, disclaim)).unwrap();
        raise(&machine, |lines| lines.asserted |= 1 << 9);
        assert!(calls() >= UNCLAIMED_MAX);
        assert_eq!(shared::interrupt_lines().masked, 1 << 9);
        raise(&machine, |lines| lines.raised ^= 1 << 9);
        assert_eq!(calls(), 0);
        connect(&wanted(9, LEVEL_SENSITIVE, release)).unwrap();
        assert_eq!(shared::interrupt_lines().masked, 0);
        assert_eq!(
            calls(),
            6,
            "both, until the second lets go, then none claims the edge"
        );
        api("IoDisconnectInterrupt", &[interrupt.addr()]);
    }

    #[test]
    fn shared_edges_are_over_when_nobody_claims_them() {
        static ROUNDS: AtomicU32 = AtomicU32::new(0);
        extern "win64-unwind" fn twice(_: u64, _: u64) -> u64 {
            u64::from(ROUNDS.fetch_add(1, Ordering::Relaxed) < 2)
        }
        let machine = machine();
        CALLS.store(0, Ordering::Relaxed);
        ROUNDS.store(0, Ordering::Relaxed);
        connect(&wanted(7, LATCHED, twice)).unwrap();
        connect(&wanted(7, LATCHED, disclaim)).unwrap();
        raise(&machine, |lines| lines.raised ^= 1 << 7);
        assert_eq!(calls(), 3);
        assert_eq!(ROUNDS.load(Ordering::Relaxed), 3);
    }
}
