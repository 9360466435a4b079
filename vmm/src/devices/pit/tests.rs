use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

fn pit() -> (Pit, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(0));
    let ticks = Arc::clone(&time);
    let pit = Pit::with_ticks(Box::new(move || ticks.load(Ordering::Relaxed)));
    (pit, time)
}

fn write(pit: &mut dyn PortDevice, offset: u16, value: u32) {
    pit.write(offset, Width::Byte, value);
}

fn read(pit: &mut dyn PortDevice, offset: u16) -> u32 {
    pit.read(offset, Width::Byte)
}

/// The data sheet's counter, tick by tick: count and output.
fn naive(mode: u8, reload: u32, ticks: u32) -> (u32, bool) {
    let (mut count, mut output) = match mode {
        0 => (reload, false),
        3 => (reload & !1, true),
        _ => (reload, true),
    };
    let mut is_odd_pause = false;
    for _ in 0..ticks {
        match mode {
            0 | 4 => {
                count = (count + 0xFFFF) % 0x1_0000;
                output = if mode == 0 {
                    output || count == 0
                } else {
                    count != 0
                };
            }
            2 => {
                count = if count == 1 { reload } else { count - 1 };
                output = count != 1;
            }
            _ if count == 2 && output && !reload.is_multiple_of(2) && !is_odd_pause => {
                // The high half of an odd count is a tick longer; the count shows 0 there.
                is_odd_pause = true;
                count = 0;
            }
            _ if count == 2 || is_odd_pause => {
                is_odd_pause = false;
                count = reload & !1;
                output = !output;
            }
            _ => count -= 2,
        }
    }
    (count, output)
}

proptest! {
    #[test]
    fn counters_agree_with_counting(
        mode in prop_oneof![Just(0_u8), Just(2), Just(3), Just(4)],
        reload in 2_u32..3000,
        ticks in 0_u32..10_000,
    ) {
        let (mut pit, time) = pit();
        write(&mut pit, 3, u32::from(0x30 | mode << 1));
        write(&mut pit, 0, reload & 0xFF);
        write(&mut pit, 0, reload >> 8);
        time.store(u64::from(ticks), Ordering::Relaxed);
        write(&mut pit, 3, 0xC2);
        let status = read(&mut pit, 0);
        let count = read(&mut pit, 0) | read(&mut pit, 0) << 8;
        let (expected, output) = naive(mode, reload, ticks);
        prop_assert_eq!(count, expected);
        prop_assert_eq!(status, u32::from(output) << 7 | u32::from(0x30 | mode << 1));
    }
}

#[test]
fn latch_keeps_the_count_until_it_is_read() {
    let (mut pit, time) = pit();
    write(&mut pit, 3, 0x34);
    write(&mut pit, 0, 0);
    write(&mut pit, 0, 0);
    time.store(0x1234, Ordering::Relaxed);
    write(&mut pit, 3, 0x00);
    time.store(0x2000, Ordering::Relaxed);
    write(&mut pit, 3, 0x00);
    assert_eq!((read(&mut pit, 0), read(&mut pit, 0)), (0xCC, 0xED));
    assert_eq!((read(&mut pit, 0), read(&mut pit, 0)), (0x00, 0xE0));
    assert_eq!(read(&mut pit, 3), 0xFF);
}

#[test]
fn binary_coded_decimal_and_single_bytes() {
    let (mut pit, time) = pit();
    write(&mut pit, 3, 0x15);
    write(&mut pit, 0, 0x25);
    time.store(6, Ordering::Relaxed);
    assert_eq!(read(&mut pit, 0), 0x19);
    write(&mut pit, 3, 0xE2);
    assert_eq!(read(&mut pit, 0), 0x95);
}

#[test]
fn gate_of_port_61_holds_counter_2() {
    let (mut pit, time) = pit();
    let mut speaker = pit.second().unwrap();
    write(&mut pit, 3, 0xB0);
    write(&mut pit, 2, 100);
    write(&mut pit, 2, 0);
    time.store(500, Ordering::Relaxed);
    assert_eq!(read(&mut *speaker, 0) & 0x2F, 0);
    write(&mut *speaker, 0, 0xF1);
    time.store(599, Ordering::Relaxed);
    assert_eq!(read(&mut *speaker, 0) & 0x2F, 0x01);
    write(&mut *speaker, 0, 0);
    time.store(5000, Ordering::Relaxed);
    assert_eq!(read(&mut *speaker, 0) & 0x20, 0);
    write(&mut *speaker, 0, 1);
    time.store(5001, Ordering::Relaxed);
    assert_eq!(read(&mut *speaker, 0) & 0x20, 0x20);
}

#[test]
fn counter_0_rises_as_its_output_does() {
    for mode in [0, 2, 3, 4] {
        let (mut pit, time) = pit();
        write(&mut pit, 3, 0x30 | mode << 1);
        let mut seen = Seen::default();
        write(&mut pit, 0, 5);
        write(&mut pit, 0, 0);
        let mut before = locked(&pit.chip).counters[0].output(0);
        let mut pause = None;
        for now in 0..30 {
            time.store(now, Ordering::Relaxed);
            let chip = locked(&pit.chip);
            let output = chip.counters[0].output(now);
            let (has_risen, next) = seen.look(&chip.counters[0], now);
            assert_eq!(has_risen, output && !before, "mode {mode}, tick {now}");
            before = output;
            pause = next;
        }
        assert_eq!(pause.is_some(), mode == 2 || mode == 3);
    }
}

#[test]
fn line_interrupts_again_and_again() {
    let lines = crate::machine::InterruptLines::default();
    let mut pit = Pit::open(lines.line(0)).unwrap();
    // 1 kHz.
    for (offset, value) in [(3, 0x34), (0, 0xA9), (0, 0x04)] {
        write(&mut pit, offset, value);
    }
    let start = Instant::now();
    while !lines.is_wanted() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
}
