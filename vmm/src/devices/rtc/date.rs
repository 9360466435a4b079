//! The calendar.

/// A date and time of day of the Gregorian calendar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Date {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

/// Days from 1970-01-01 to a date. Months and days may be out of their range.
pub(super) fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at their end.
    let year = year + (month - 3).div_euclid(12);
    let month = (month - 3).rem_euclid(12);
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

impl Date {
    pub(super) fn seconds(self) -> i64 {
        let days = days(self.year, self.month, self.day);
        ((days * 24 + self.hour) * 60 + self.minute) * 60 + self.second
    }

    pub(super) fn from_seconds(seconds: i64) -> Self {
        let day_number = seconds.div_euclid(86_400);
        let rest = seconds.rem_euclid(86_400);
        // The mean year is 365.2425 days, so this is at most one too far.
        let mut year = 1970 + (day_number * 10_000).div_euclid(3_652_425);
        while days(year, 1, 1) > day_number {
            year -= 1;
        }
        while days(year + 1, 1, 1) <= day_number {
            year += 1;
        }
        let mut month = 1;
        while month < 12 && days(year, month + 1, 1) <= day_number {
            month += 1;
        }
        Self {
            year,
            month,
            day: day_number - days(year, month, 1) + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// 1 is Sunday.
    pub(super) fn weekday(self) -> i64 {
        (days(self.year, self.month, self.day) + 4).rem_euclid(7) + 1
    }
}
