use super::chip::UPDATE;
use super::date::Date;
use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicI64, Ordering};

fn rtc(date: Date) -> (Chip, Arc<AtomicI64>) {
    let time = Arc::new(AtomicI64::new(date.seconds() * SECOND));
    let clock = Arc::clone(&time);
    let rtc = Chip::with_clock(0, Box::new(move || clock.load(Ordering::Relaxed)));
    (rtc, time)
}

fn read(rtc: &mut Chip, index: u32) -> u32 {
    rtc.write(0, Width::Byte, index | 0x80);
    rtc.read(1, Width::Byte)
}

fn write(rtc: &mut Chip, index: u32, value: u32) {
    rtc.write(0, Width::Byte, index);
    rtc.write(1, Width::Byte, value);
}

const DATE: Date = Date {
    year: 1999,
    month: 12,
    day: 31,
    hour: 23,
    minute: 59,
    second: 58,
};

proptest! {
    #[test]
    fn dates_agree_with_counting_days(day_number in 0_i64..80_000, time in 0_i64..86_400) {
        let (mut year, mut month, mut rest) = (1970, 1, day_number);
        loop {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i64::from(is_leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            if rest < length {
                break;
            }
            rest -= length;
            month += 1;
            if month == 13 {
                (year, month) = (year + 1, 1);
            }
        }
        let seconds = day_number * 86_400 + time;
        let date = Date::from_seconds(seconds);
        prop_assert_eq!((date.year, date.month, date.day), (year, month, rest + 1));
        prop_assert_eq!(date.seconds(), seconds);
        prop_assert_eq!(date.weekday(), (day_number + 4) % 7 + 1, "1970 began on a Thursday");
    }
}

#[test]
fn time_in_every_format_and_over_the_century() {
    let (mut rtc, time) = rtc(DATE);
    let all = |rtc: &mut Chip| [0, 2, 4, 6, 7, 8, 9, 0x32].map(|index| read(rtc, index));
    assert_eq!(all(&mut rtc), [0x58, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19]);
    write(&mut rtc, 11, 0x06);
    assert_eq!(all(&mut rtc), [58, 59, 23, 6, 31, 12, 99, 19]);
    write(&mut rtc, 11, 0x00);
    assert_eq!(read(&mut rtc, 4), 0x91, "11 p.m.");
    time.fetch_add(2 * SECOND, Ordering::Relaxed);
    assert_eq!(all(&mut rtc), [0, 0, 0x12, 7, 1, 1, 0, 0x20]);
}

#[test]
fn clock_that_is_set_goes_on_from_there() {
    let (mut rtc, time) = rtc(DATE);
    write(&mut rtc, 11, 0x82);
    time.fetch_add(5 * SECOND, Ordering::Relaxed);
    assert_eq!(read(&mut rtc, 0), 0x58, "SET stops it");
    for (index, value) in [
        (0, 0x30),
        (2, 0x15),
        (4, 0x08),
        (7, 0x29),
        (8, 0x02),
        (9, 0x24),
        (0x32, 0x20),
    ] {
        write(&mut rtc, index, value);
    }
    write(&mut rtc, 11, 0x02);
    time.fetch_add(86_400 * SECOND, Ordering::Relaxed);
    assert_eq!(
        [0, 2, 4, 6, 7, 8].map(|index| read(&mut rtc, index)),
        [0x30, 0x15, 0x08, 6, 1, 3]
    );
}

#[test]
fn flags_tell_what_has_happened_since_they_were_read() {
    let (mut rtc, time) = rtc(DATE);
    write(&mut rtc, 10, 0x20);
    for (index, value) in [(1, 0x59), (3, 0xFF), (5, 0xC0), (11, 0x22)] {
        write(&mut rtc, index, value);
    }
    assert_eq!(read(&mut rtc, 12), 0);
    time.fetch_add(SECOND, Ordering::Relaxed);
    assert_eq!(read(&mut rtc, 12), 0xB0, "alarm and update");
    assert_eq!(read(&mut rtc, 12), 0);
    time.fetch_add(SECOND, Ordering::Relaxed);
    assert_eq!(read(&mut rtc, 12), 0x10);
    write(&mut rtc, 10, 0x26);
    time.fetch_add(977, Ordering::Relaxed);
    assert_eq!(read(&mut rtc, 12), 0x40, "1024 Hz");
    assert_eq!(read(&mut rtc, 10), 0x26);
    time.fetch_add(SECOND - 977 - UPDATE, Ordering::Relaxed);
    assert_eq!(read(&mut rtc, 10), 0xA6, "an update is near");
    assert_eq!(read(&mut rtc, 13), 0x80);
}

/// A clock with a file, and the file's folder.
fn with_memory() -> (tempfile::TempDir, RtcSpec) {
    let folder = tempfile::tempdir().unwrap();
    let spec = RtcSpec {
        offset: 0,
        nvram: Some(folder.path().join("cmos")),
        irq: None,
    };
    (folder, spec)
}

#[test]
fn memory_is_kept_in_its_file() {
    let (folder, spec) = with_memory();
    let mut first = Chip::open(&spec).unwrap();
    write(&mut first, 0x7F, 0xAB);
    first.flush().unwrap();
    drop(first);
    assert_eq!(read(&mut Chip::open(&spec).unwrap(), 0x7F), 0xAB);
    let lost = RtcSpec {
        nvram: Some(folder.path().to_owned()),
        ..spec
    };
    assert!(Chip::open(&lost).is_err());
}

#[test]
fn memory_in_a_file_is_one_clocks_until_it_ends() {
    let (_folder, spec) = with_memory();
    let mut first = Chip::open(&spec).unwrap();
    write(&mut first, 0x40, 0x11);
    first.flush().unwrap();
    // Both would keep all bytes at their end: the last one those that the other has changed, as they were before.
    let error = crate::error_chain(&Chip::open(&spec).unwrap_err());
    assert!(error.contains("ringfence ps"), "{error}");
    assert!(error.contains("cmos"), "{error}");
    write(&mut first, 0x41, 0x22);
    first.flush().unwrap();
    drop(first);
    let mut next = Chip::open(&spec).unwrap();
    assert_eq!((read(&mut next, 0x40), read(&mut next, 0x41)), (0x11, 0x22));
}

#[test]
fn interrupts_fall_due_as_register_b_enables_them() {
    let (mut rtc, time) = rtc(DATE);
    write(&mut rtc, 10, 0x26);
    read(&mut rtc, 12);
    assert_eq!(rtc.due(), None);
    // Periodic: 1024 Hz, in whole microseconds.
    write(&mut rtc, 11, 0x42);
    assert_eq!(rtc.due(), Some(Duration::from_micros(977)));
    time.fetch_add(976, Ordering::Relaxed);
    assert_eq!(rtc.due(), Some(Duration::from_micros(1)));
    time.fetch_add(1, Ordering::Relaxed);
    assert_eq!(rtc.due(), Some(Duration::ZERO));
    assert_eq!(read(&mut rtc, 12), 0xC0);
    assert_eq!(
        rtc.due(),
        Some(Duration::from_micros(977)),
        "1954 from the start"
    );
    // Update: with the second.
    write(&mut rtc, 11, 0x12);
    assert_eq!(rtc.due(), Some(Duration::from_micros(1_000_000 - 977)));
    // An alarm is looked for every second.
    write(&mut rtc, 11, 0x22);
    for (index, value) in [(1, 0x00), (3, 0xFF), (5, 0xFF)] {
        write(&mut rtc, index, value);
    }
    time.fetch_add(SECOND, Ordering::Relaxed);
    assert_eq!(rtc.due(), Some(Duration::from_micros(1_000_000 - 977)));
    time.fetch_add(SECOND, Ordering::Relaxed);
    assert_eq!(rtc.due(), Some(Duration::ZERO));
}

#[test]
fn line_is_active_from_an_interrupt_until_register_c_is_read() {
    let spec = RtcSpec {
        offset: 0,
        nvram: None,
        irq: Some(8),
    };
    let lines = crate::machine::InterruptLines::default();
    let mut rtc = Rtc::open(&spec, lines.line(8)).unwrap();
    let set = |rtc: &mut Rtc, index, value| {
        rtc.write(0, Width::Byte, index);
        rtc.write(1, Width::Byte, value);
    };
    set(&mut rtc, 10, 0x2F);
    assert!(!lines.is_wanted());
    set(&mut rtc, 11, 0x42);
    let start = std::time::Instant::now();
    while !lines.is_wanted() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
    rtc.write(0, Width::Byte, 12);
    assert_eq!(rtc.read(1, Width::Byte) & 0xC0, 0xC0);
}

#[test]
fn every_read_of_register_c_makes_way_for_the_next_edge() {
    // So busy a machine that a period goes by between any two looks at the time.
    let time = Arc::new(AtomicI64::new(DATE.seconds() * SECOND));
    let chip = Chip::with_clock(0, Box::new(move || time.fetch_add(1000, Ordering::Relaxed)));
    let lines = crate::machine::InterruptLines::default();
    let mut rtc = Rtc::start(chip, lines.line(8)).unwrap();
    for (index, value) in [(10, 0x26), (11, 0x42)] {
        rtc.write(0, Width::Byte, index);
        rtc.write(1, Width::Byte, value);
    }
    rtc.write(0, Width::Byte, 12);
    for interrupt in 1..=3 {
        let start = std::time::Instant::now();
        while !lines.is_wanted() {
            let waited = start.elapsed();
            assert!(waited < Duration::from_secs(10), "interrupt {interrupt}");
            std::thread::sleep(Duration::from_millis(1));
        }
        lines.forget();
        assert_eq!(rtc.read(1, Width::Byte) & 0xC0, 0xC0);
    }
}
