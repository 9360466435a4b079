//! Device interrupts: lines that the host raises from another thread reach a driver's service routine and DPC.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration_tests::codes::{irq, status};
use integration_tests::{Client, Target, fields, is_lane, machine_tests, patience};
use vmm::machine::InterruptLine;
use vmm::session::Machine;
use vmm::session::driver::RunningMachine;

machine_tests!(
    a_pulse_wakes_an_idle_guest,
    each_pulse_is_one_interrupt,
    running_code_is_interrupted_below_its_irql,
    a_level_is_delivered_until_it_ends,
    a_line_that_nobody_claims_does_not_hang_the_guest,
    synchronized_code_is_not_interrupted,
    disconnected_lines_are_ignored,
    interrupts_connected_by_resource_can_be_inactive,
);

const PATH: &str = r"\\.\irq";
const LINE: u32 = 5;
const LEVEL: u32 = 0;
const LATCHED: u32 = 1;

#[derive(Debug, PartialEq, Eq)]
struct Counts {
    interrupts: u32,
    dpcs: u32,
    irql: u32,
    expected: u32,
}

fn counts(output: &[u8]) -> Counts {
    let word = |index: usize| {
        let bytes = output.get(4 * index..4 * index + 4).unwrap();
        u32::from_le_bytes(bytes.try_into().unwrap())
    };
    Counts {
        interrupts: word(0),
        dpcs: word(1),
        irql: word(2),
        expected: word(3),
    }
}

fn start(target: Target, mode: u32, disclaims: u32) -> (Machine, Client, InterruptLine) {
    let machine = target.start_sample("irq", "");
    let mut client = Client::open(&machine, PATH);
    client.control(irq::CONNECT, &fields!(LINE, mode, disclaims), 0);
    let line = machine.interrupt_line(LINE).unwrap();
    (machine, client, line)
}

fn now(client: &mut Client) -> Counts {
    counts(&client.control(irq::COUNTS, &[], 16))
}

/// Asks until the counts are as wanted.
fn until(client: &mut Client, is_wanted: impl Fn(&Counts) -> bool) -> Counts {
    let end = Instant::now() + patience();
    loop {
        let counts = now(client);
        if is_wanted(&counts) {
            return counts;
        }
        assert!(Instant::now() < end, "{counts:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Pulses the line again and again while something runs, and at least once; less and less often, so that it gets on with it
/// on any machine.
fn while_pulsing<T>(line: &InterruptLine, run: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = Duration::from_millis(5);
            loop {
                std::thread::sleep(pause);
                line.pulse();
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        });
        let result = run();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}

fn a_pulse_wakes_an_idle_guest(target: Target) {
    let (machine, mut client, line) = start(target, LATCHED, 0);

    let waiter = std::thread::spawn(move || {
        let output = client.control(irq::WAIT, &[], 16);
        (client, output)
    });
    // The guest has nothing else to do by then; if it should still run, the test is another one.
    std::thread::sleep(Duration::from_millis(if is_lane() { 1000 } else { 50 }));
    line.pulse();

    let (_client, output) = waiter.join().unwrap();
    let counts = counts(&output);
    assert_eq!((counts.interrupts, counts.dpcs), (1, 1));
    assert_eq!(counts.irql, counts.expected);
    assert!(counts.irql > 2);
    drop(machine);
}

fn each_pulse_is_one_interrupt(target: Target) {
    let (_machine, mut client, line) = start(target, LATCHED, 0);

    for number in 1..=20 {
        line.pulse();
        let counts = until(&mut client, |counts| counts.interrupts == number);
        assert!(counts.dpcs <= number);
    }
    // A line that stays active is one edge more.
    line.assert();
    until(&mut client, |counts| counts.interrupts == 21);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(now(&mut client).interrupts, 21);
    line.deassert();
    line.assert();
    until(&mut client, |counts| counts.interrupts == 22);
}

fn running_code_is_interrupted_below_its_irql(target: Target) {
    let (_machine, mut client, line) = start(target, LATCHED, 0);

    for irql in [0_u32, 1, 2] {
        let before = now(&mut client).interrupts;
        let output = while_pulsing(&line, || client.control(irq::SPIN, &fields!(irql), 16));
        let counts = counts(&output);
        assert!(counts.interrupts > before, "{counts:?} at {irql}");
        assert_eq!(counts.irql, counts.expected);
    }
}

fn a_level_is_delivered_until_it_ends(target: Target) {
    let (_machine, mut client, line) = start(target, LEVEL, 0);

    // While it is asserted the guest does nothing else. How long one delivery takes depends on the machine.
    let mut asserted = Duration::from_millis(20);
    let counts = loop {
        let before = now(&mut client).interrupts;
        line.assert();
        std::thread::sleep(asserted);
        line.deassert();
        let counts = until(&mut client, |later| later.interrupts > before);
        if counts.interrupts > before + 1 {
            break counts;
        }
        asserted *= 2;
        assert!(asserted < patience(), "one delivery each time: {counts:?}");
    };
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(now(&mut client).interrupts, counts.interrupts);
    // A pulse is one delivery.
    line.pulse();
    until(&mut client, |later| {
        later.interrupts == counts.interrupts + 1
    });
}

fn a_line_that_nobody_claims_does_not_hang_the_guest(target: Target) {
    let (machine, mut client, line) = start(target, LEVEL, 1);

    line.assert();

    // The guest serves the line and nothing else until it masks it.
    let counts = until(&mut client, |counts| counts.interrupts > 0);
    assert_eq!(counts.dpcs, 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(now(&mut client).interrupts, counts.interrupts);
    assert!(machine.stopped().is_none());
}

fn synchronized_code_is_not_interrupted(target: Target) {
    let (_machine, mut client, line) = start(target, LATCHED, 0);
    // An i386 driver's code may be interpreted, at less than a million loops a second; where code runs by itself, so many
    // are over before the first pulse.
    let mut loops = 200_000_u32;
    loop {
        let begin = Instant::now();
        let seen = while_pulsing(&line, || client.control_u32(irq::HOLD, &fields!(loops)));
        assert_eq!(seen, 0);
        if begin.elapsed() >= Duration::from_millis(50) {
            break;
        }
        loops = loops.saturating_mul(4);
    }
    until(&mut client, |counts| counts.interrupts > 0);
}

fn disconnected_lines_are_ignored(target: Target) {
    let (_machine, mut client, line) = start(target, LATCHED, 0);
    let again = client.ioctl(irq::CONNECT, &fields!(LINE, LATCHED, 0_u32), 0);
    assert_ne!(again.status.0, status::SUCCESS);
    client.control(irq::DISCONNECT, &[], 0);

    line.pulse();
    assert_eq!(now(&mut client).interrupts, 0);
    client.control(irq::CONNECT, &fields!(LINE, LATCHED, 0_u32), 0);

    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(now(&mut client).interrupts, 0);
    line.pulse();
    until(&mut client, |counts| counts.interrupts == 1);
}

fn interrupts_connected_by_resource_can_be_inactive(target: Target) {
    let machine = target.start_sample("irq", "");
    let mut client = Client::open(&machine, PATH);
    client.control(irq::CONNECT_EX, &fields!(LINE, LATCHED, 0_u32), 0);
    let line = machine.interrupt_line(LINE).unwrap();

    line.pulse();
    let counts = until(&mut client, |counts| counts.interrupts == 1);
    assert_eq!(counts.irql, counts.expected);

    client.control(irq::ACTIVE, &fields!(0_u32), 0);
    line.pulse();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(now(&mut client).interrupts, 1);

    client.control(irq::ACTIVE, &fields!(1_u32), 0);
    let before = now(&mut client).interrupts;
    line.pulse();
    until(&mut client, |counts| counts.interrupts > before);

    client.control(irq::DISCONNECT, &[], 0);
    let last = now(&mut client).interrupts;
    line.pulse();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(now(&mut client).interrupts, last);
}
