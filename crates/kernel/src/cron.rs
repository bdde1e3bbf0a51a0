//! Times that come again: cron expressions of five fields, in UTC.
//!
//! A field is `*`, a number, a range, a list of them, or one of these with a step (`*/15`). Months
//! and days of the week may be given by their English names; both 0 and 7 are Sunday. As it is
//! everywhere, a day fits either field where both of the month and of the week are given.

use crate::values::Timestamp;

const MINUTE_MICROS: i64 = 60_000_000;
const DAY_MINUTES: i64 = 24 * 60;
/// Any day of the calendar comes again within so many: a 29 February within eight years.
const DAYS_AHEAD_MAX: i64 = 8 * 366 + 1;
/// Bytes of an expression.
const BYTES_MAX: usize = 128;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Why a text is no cron expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Too few fields, or too many.
    #[error("five fields: minute, hour, day of the month, month, day of the week")]
    Fields,
    /// A field that does not read.
    #[error("the {0} does not read: `*`, numbers, ranges and lists of them, and steps as `*/5`")]
    Field(&'static str),
    /// No such day is in the calendar.
    #[error("this never comes")]
    Never,
}

/// When something is due again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether a day has to fit both of its fields, since one of them is `*`.
    both: bool,
}

/// One field: its name, its least and greatest number, and names from the least on.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field { name: "month", least: 1, most: 12, names: &MONTHS },
    Field { name: "day of the week", least: 0, most: 7, names: &WEEKDAYS },
];

impl Field {
    /// The numbers of a field as bits.
    fn parse(&self, text: &str) -> Result<u64, Invalid> {
        let invalid = Invalid::Field(self.name);
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.part(part).ok_or(invalid)?))
    }

    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, self.digits(step).filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.number(first)?, self.number(last)?),
            // `5/10` is from 5 on.
            None if part.contains('/') => (self.number(range)?, self.most),
            None => (self.number(range)?, self.number(range)?),
        };
        let within = self.least <= first && first <= last && last <= self.most;
        let step = usize::try_from(step).ok()?;
        within.then(|| (first..=last).step_by(step).fold(0, |bits, number| bits | bit(number)))
    }

    fn number(&self, text: &str) -> Option<u32> {
        let lower = text.to_ascii_lowercase();
        match self.names.iter().position(|name| *name == lower) {
            Some(place) => u32::try_from(place).ok().map(|place| place + self.least),
            None => self.digits(text),
        }
    }

    fn digits(&self, text: &str) -> Option<u32> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| plain)
    }
}

fn bit(number: u32) -> u64 {
    1_u64.checked_shl(number).unwrap_or(0)
}

fn has(bits: u64, number: i64) -> bool {
    u32::try_from(number).is_ok_and(|number| bits & bit(number) != 0)
}

impl Cron {
    /// Reads an expression. One that never comes is refused.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > BYTES_MAX {
            return Err(Invalid::Fields);
        }
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(Invalid::Fields);
        };
        let [minutes, hours, days, months, weekdays] = &FIELDS;
        let star = |text: &str| text.starts_with('*');
        let cron = Self {
            minutes: minutes.parse(minute)?,
            hours: hours.parse(hour)?,
            days: days.parse(day)?,
            months: months.parse(month)?,
            weekdays: sunday(weekdays.parse(weekday)?),
            both: star(day) || star(weekday),
        };
        cron.next_after(Timestamp(0)).map(|_| cron).ok_or(Invalid::Never)
    }

    /// The first time that is due after `after`: the beginning of a minute.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let first = after.0.div_euclid(MINUTE_MICROS).checked_add(1)?;
        let (today, now) = (first.div_euclid(DAY_MINUTES), first.rem_euclid(DAY_MINUTES));
        let days = today..=today.checked_add(DAYS_AHEAD_MAX)?;
        let mut days = days.filter(|day| self.fits(*day));
        days.find_map(|day| {
            let from = if day == today { now } else { 0 };
            let due = |minute: &i64| has(self.hours, minute / 60) && has(self.minutes, minute % 60);
            let minute = (from..DAY_MINUTES).find(due)?;
            let minutes = day.checked_mul(DAY_MINUTES)?.checked_add(minute)?;
            minutes.checked_mul(MINUTE_MICROS).map(Timestamp)
        })
    }

    /// Whether it is due on that day, counted from 1970-01-01.
    fn fits(&self, day: i64) -> bool {
        let (month, of_month) = civil(day);
        // 1970-01-01 was a Thursday.
        let weekday = has(self.weekdays, (day + 4).rem_euclid(7));
        let of_month = has(self.days, of_month);
        let fits = if self.both { of_month && weekday } else { of_month || weekday };
        fits && has(self.months, month)
    }
}

/// 7 is Sunday too.
fn sunday(weekdays: u64) -> u64 {
    if has(weekdays, 7) { weekdays | bit(0) } else { weekdays }
}

/// Month and day of the month of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil(day: i64) -> (i64, i64) {
    // Eras of 400 years begin on 1 March, so that leap days come last.
    let of_era = (day + 719_468).rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since 1970 of a time of 2026-11-`day` or, beyond 30, of the days after.
    fn november(day: i64, hour: i64, minute: i64) -> i64 {
        // 2026-11-01T00:00:00Z is a Sunday.
        1_793_491_200 + (day - 1) * 86_400 + hour * 3_600 + minute * 60
    }

    fn check(text: &str, after: i64, expect: i64) {
        let cron = Cron::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let next = cron.next_after(Timestamp(after * 1_000_000));
        assert_eq!(next, Some(Timestamp(expect * 1_000_000)), "{text}");
    }

    #[test]
    fn the_next_time() {
        let at = november(22, 2, 8);
        check("* * * * *", at, november(22, 2, 9));
        check("* * * * *", at + 59, november(22, 2, 9));
        check("8 2 * * *", at, november(23, 2, 8));
        check("*/15 * * * *", at, november(22, 2, 15));
        check("5/20 * * * *", at, november(22, 2, 25));
        check("0 9-17 * * mon-fri", at, november(23, 9, 0));
        check("0 0 1 * *", at, november(31, 0, 0));
        check("0 0 * * 7", at, november(29, 0, 0));
        check("0 0 * * SUN", at, november(29, 0, 0));
        check("30 6,18 * * *", at, november(22, 6, 30));
        check("0 12 24 dec *", at, november(54, 12, 0));
        // Either of the two where both are given: the 25th comes before the next Friday.
        check("0 0 25 * fri", at, november(25, 0, 0));
        check("0 0 28 * thu", at, november(26, 0, 0));
        // 2028-02-29.
        check("0 0 29 2 *", at, 1_835_395_200);
    }

    #[test]
    fn what_is_no_expression() {
        for text in ["", "* * * *", "* * * * * *", "@daily", "* * * * * \u{661}"] {
            assert_eq!(Cron::parse(text), Err(Invalid::Fields), "{text:?}");
        }
        for (text, field) in [
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of the month"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "day of the week"),
            ("*/0 * * * *", "minute"),
            ("5-1 * * * *", "minute"),
            ("1, * * * *", "minute"),
            ("+1 * * * *", "minute"),
            ("1--2 * * * *", "minute"),
            ("*/ * * * *", "minute"),
            ("* * * fri *", "month"),
            ("* * * * \u{661}", "day of the week"),
        ] {
            assert_eq!(Cron::parse(text), Err(Invalid::Field(field)), "{text:?}");
        }
        assert_eq!(Cron::parse("0 0 30 feb *"), Err(Invalid::Never));
        assert_eq!(Cron::parse(&"1,".repeat(100)), Err(Invalid::Fields));
    }

    #[test]
    fn every_minute_of_a_century_is_a_minute_later() {
        let cron = Cron::parse("* * * * *").unwrap();
        let mut at = Timestamp(0);
        for _ in 0..10_000 {
            let next = cron.next_after(at).unwrap();
            assert_eq!(next.0 - at.0, MINUTE_MICROS);
            // A prime number of minutes on.
            at = Timestamp(next.0 + 5_003 * MINUTE_MICROS);
        }
    }
}
