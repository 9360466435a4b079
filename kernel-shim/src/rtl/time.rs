//! Calendar time. NT counts 100 ns units since 1601-01-01.

use crate::api::nt_api;
use crate::raw::{Ptr, low16, low32};
use crate::value::ULong;

/// TIME_FIELDS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TIME_FIELDS {
    /// 1601 and later.
    pub Year: i16,
    /// 1 to 12.
    pub Month: i16,
    /// 1 to 31.
    pub Day: i16,
    /// 0 to 23.
    pub Hour: i16,
    /// 0 to 59.
    pub Minute: i16,
    /// 0 to 59.
    pub Second: i16,
    /// 0 to 999.
    pub Milliseconds: i16,
    /// 0 (Sunday) to 6.
    pub Weekday: i16,
}

const UNITS_PER_MILLISECOND: i64 = 10_000;
const UNITS_PER_SECOND: i64 = 1000 * UNITS_PER_MILLISECOND;
const MILLISECONDS_PER_DAY: i64 = 86_400_000;
/// Seconds from 1601-01-01 to 1970-01-01.
const SECONDS_TO_1970: i64 = 11_644_473_600;

/// Seconds from 1970-01-01 to 1980-01-01.
const SECONDS_1970_TO_1980: i64 = 315_532_800;

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1601-01-01 to the first day of a year.
const fn days_before(year: i64) -> i64 {
    let years = year - 1601;
    years * 365 + years / 4 - years / 100 + years / 400
}

fn short(value: i64) -> i16 {
    low16(value.cast_unsigned()).cast_signed()
}

fn fields(time: i64) -> TIME_FIELDS {
    let milliseconds = time.div_euclid(UNITS_PER_MILLISECOND);
    let mut days = milliseconds.div_euclid(MILLISECONDS_PER_DAY);
    let of_day = milliseconds.rem_euclid(MILLISECONDS_PER_DAY);
    // 1601-01-01 was a Monday.
    let weekday = (days + 1).rem_euclid(7);
    let mut year = 1601 + days * 400 / 146_097;
    while days_before(year) > days {
        year -= 1;
    }
    while days_before(year + 1) <= days {
        year += 1;
    }
    days -= days_before(year);
    let mut month = 1;
    while days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
    }
    TIME_FIELDS {
        Year: short(year),
        Month: short(month),
        Day: short(days + 1),
        Hour: short(of_day / 3_600_000),
        Minute: short(of_day / 60_000 % 60),
        Second: short(of_day / 1000 % 60),
        Milliseconds: short(of_day % 1000),
        Weekday: short(weekday),
    }
}

/// The time of a date; `None` for a date that there is not. The weekday is not looked at.
fn time(fields: &TIME_FIELDS) -> Option<i64> {
    let [year, month, day] = [fields.Year, fields.Month, fields.Day].map(i64::from);
    let [hour, minute, second, millisecond] = [
        fields.Hour,
        fields.Minute,
        fields.Second,
        fields.Milliseconds,
    ]
    .map(i64::from);
    let is_valid = year >= 1601
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second)
        && (0..1000).contains(&millisecond);
    if !is_valid {
        return None;
    }
    let days =
        days_before(year) + (1..month).map(|month| days_in(year, month)).sum::<i64>() + day - 1;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds * 1000 + millisecond) * UNITS_PER_MILLISECOND)
}

nt_api! { module = rtl_time;
    /// Date and time of day of a system time.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlTimeToTimeFields(time: Ptr<i64>, time_fields: Ptr<TIME_FIELDS>) {
        time_fields.write(fields(time.read()));
    }

    /// The system time of a date and time of day; FALSE for one that there is not.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlTimeFieldsToTime(time_fields: Ptr<TIME_FIELDS>, time: Ptr<i64>) -> bool {
        let Some(value) = self::time(&time_fields.read()) else {
            return false;
        };
        time.write(value);
        true
    }

    /// Seconds since 1970; FALSE if they do not fit a ULONG.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlTimeToSecondsSince1970(time: Ptr<i64>, seconds: Ptr<u32>) -> bool {
        let since = time.read().div_euclid(UNITS_PER_SECOND) - SECONDS_TO_1970;
        let fits = (0..=i64::from(u32::MAX)).contains(&since);
        if fits {
            seconds.write(low32(since.cast_unsigned()));
        }
        fits
    }

    /// Seconds since 1980; FALSE if they do not fit a ULONG.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlTimeToSecondsSince1980(time: Ptr<i64>, seconds: Ptr<u32>) -> bool {
        let since = time.read().div_euclid(UNITS_PER_SECOND) - SECONDS_TO_1970 - SECONDS_1970_TO_1980;
        let fits = (0..=i64::from(u32::MAX)).contains(&since);
        if fits {
            seconds.write(low32(since.cast_unsigned()));
        }
        fits
    }

    /// The system time of a number of seconds since 1980.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSecondsSince1980ToTime(seconds: ULong, time: Ptr<i64>) {
        time.write((i64::from(seconds) + SECONDS_TO_1970 + SECONDS_1970_TO_1980) * UNITS_PER_SECOND);
    }

    /// Days (in the field Day), hours and so on of a span of time; year and month are 0.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlTimeToElapsedTimeFields(time: Ptr<i64>, time_fields: Ptr<TIME_FIELDS>) {
        let span = time.read();
        let days = span.div_euclid(UNITS_PER_MILLISECOND).div_euclid(MILLISECONDS_PER_DAY);
        time_fields.write(TIME_FIELDS { Year: 0, Month: 0, Day: short(days), Weekday: 0, ..fields(span) });
    }

    /// The local time of a system time: the guest's time zone is UTC.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExSystemTimeToLocalTime(system_time: Ptr<i64>, local_time: Ptr<i64>) {
        local_time.write(system_time.read());
    }

    /// The system time of a local time: the guest's time zone is UTC.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExLocalTimeToSystemTime(local_time: Ptr<i64>, system_time: Ptr<i64>) {
        system_time.write(local_time.read());
    }

    /// The system time of a number of seconds since 1970.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlSecondsSince1970ToTime(seconds: ULong, time: Ptr<i64>) {
        time.write((i64::from(seconds) + SECONDS_TO_1970) * UNITS_PER_SECOND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(mut value: i64) -> TIME_FIELDS {
        let mut result = fields(0);
        RtlTimeToTimeFields(Ptr::of(&mut value), Ptr::of(&mut result));
        result
    }

    #[test]
    fn known_dates() {
        let start = split(0);
        assert_eq!(
            (start.Year, start.Month, start.Day, start.Weekday),
            (1601, 1, 1, 1)
        );
        let mut epoch = 0;
        RtlSecondsSince1970ToTime(951_782_400, Ptr::of(&mut epoch));
        let leap = split(epoch + 123 * UNITS_PER_MILLISECOND);
        assert_eq!(
            (leap.Year, leap.Month, leap.Day, leap.Weekday),
            (2000, 2, 29, 2)
        );
        assert_eq!(
            (leap.Hour, leap.Minute, leap.Second, leap.Milliseconds),
            (0, 0, 0, 123)
        );
        let mut seconds = 0;
        assert!(RtlTimeToSecondsSince1970(
            Ptr::of(&mut epoch),
            Ptr::of(&mut seconds)
        ));
        assert_eq!(seconds, 951_782_400);
        assert!(!RtlTimeToSecondsSince1970(
            Ptr::of(&mut 0),
            Ptr::of(&mut seconds)
        ));
    }

    #[test]
    fn spans_and_1980() {
        let (mut time, mut seconds) = (0, 0);
        RtlSecondsSince1980ToTime(1, Ptr::of(&mut time));
        let date = split(time);
        assert_eq!(
            (date.Year, date.Month, date.Day, date.Second),
            (1980, 1, 1, 1)
        );
        assert!(RtlTimeToSecondsSince1980(
            Ptr::of(&mut time),
            Ptr::of(&mut seconds)
        ));
        assert_eq!(seconds, 1);
        time -= 2 * UNITS_PER_SECOND;
        assert!(!RtlTimeToSecondsSince1980(
            Ptr::of(&mut time),
            Ptr::of(&mut seconds)
        ));
        let mut span = (MILLISECONDS_PER_DAY * 400 + 3_600_001) * UNITS_PER_MILLISECOND;
        let mut parts = fields(0);
        RtlTimeToElapsedTimeFields(Ptr::of(&mut span), Ptr::of(&mut parts));
        assert_eq!((parts.Year, parts.Month, parts.Day), (0, 0, 400));
        assert_eq!((parts.Hour, parts.Minute, parts.Milliseconds), (1, 0, 1));
    }

    #[test]
    fn dates_that_do_not_exist_are_refused() {
        let good = TIME_FIELDS {
            Month: 2,
            Day: 28,
            ..split(0)
        };
        let mut value = 0;
        for bad in [
            TIME_FIELDS { Day: 29, ..good },
            TIME_FIELDS { Month: 13, ..good },
            TIME_FIELDS { Year: 1600, ..good },
            TIME_FIELDS { Hour: 24, ..good },
            TIME_FIELDS { Second: 60, ..good },
            TIME_FIELDS {
                Milliseconds: -1,
                ..good
            },
        ] {
            assert!(
                !RtlTimeFieldsToTime(Ptr::of(&mut bad.clone()), Ptr::of(&mut value)),
                "{bad:?}"
            );
        }
        assert!(RtlTimeFieldsToTime(
            Ptr::of(&mut good.clone()),
            Ptr::of(&mut value)
        ));
    }

    proptest! {
        #[test]
        fn every_millisecond_survives_the_round_trip(milliseconds in 0..900_000_000_000_000_i64) {
            let value = milliseconds * UNITS_PER_MILLISECOND;
            prop_assert_eq!(time(&fields(value)), Some(value));
        }
    }
}
