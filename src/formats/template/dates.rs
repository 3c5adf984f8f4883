//! `strftime_now` as transformers defines it: Python's `strftime` of the time, in UTC and in the C locale.

use minijinja::{Error, ErrorKind};
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Conversions that stand for several others.
const COMPOSED: [(char, &str); 8] = [
    ('c', "%a %b %e %H:%M:%S %Y"),
    ('D', "%m/%d/%y"),
    ('F', "%Y-%m-%d"),
    ('r', "%I:%M:%S %p"),
    ('R', "%H:%M"),
    ('T', "%H:%M:%S"),
    ('x', "%m/%d/%y"),
    ('X', "%H:%M:%S"),
];

/// `time` as `format` says.
pub(super) fn strftime(time: SystemTime, format: &str) -> Result<String, Error> {
    let date = Date::of(time);
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut conversion = rest.next();
        let padding = conversion.filter(|c| matches!(c, '-' | '_' | '0'));
        if padding.is_some() {
            conversion = rest.next();
        }
        let composed = COMPOSED.iter().find(|(name, _)| Some(*name) == conversion);
        let written = match (composed, conversion) {
            (Some((_, parts)), _) => Some(strftime(time, parts)?),
            (None, Some(conversion)) => date.number(conversion, padding).or_else(|| date.word(conversion)),
            (None, None) => None,
        };
        text.push_str(&written.ok_or_else(|| {
            let name = conversion.map(String::from).unwrap_or_default();
            let why = format!("strftime_now: conversion %{name} in {format:?} is not supported");
            Error::new(ErrorKind::InvalidOperation, why)
        })?);
    }
    Ok(text)
}

/// A time, taken apart.
struct Date {
    seconds: u64,
    microseconds: u32,
    year: u64,
    month: u64,
    day: u64,
    /// From 0, a Sunday.
    weekday: u64,
    /// From 0.
    day_of_year: u64,
}

impl Date {
    fn of(time: SystemTime) -> Self {
        let passed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = passed.as_secs() / 86_400;
        let (year, month, day) = civil(days);
        Self {
            seconds: passed.as_secs(),
            microseconds: passed.subsec_micros(),
            year,
            month,
            day,
            weekday: (days + 4) % 7,
            day_of_year: days - days_before(year),
        }
    }

    /// What a conversion to a number gives. `padding` is `-` for none, `_` for spaces, `0` for zeros.
    fn number(&self, conversion: char, padding: Option<char>) -> Option<String> {
        let hour = self.seconds / 3600 % 24;
        let twelve = (hour + 11) % 12 + 1;
        let (iso_year, iso_week) = self.iso_week();
        let monday = (self.weekday + 6) % 7;
        let (number, width, usual) = match conversion {
            'C' => (self.year / 100, 2, '0'),
            'd' => (self.day, 2, '0'),
            'e' => (self.day, 2, ' '),
            'f' => (u64::from(self.microseconds), 6, '0'),
            'g' => (iso_year % 100, 2, '0'),
            'G' => (iso_year, 1, '0'),
            'H' => (hour, 2, '0'),
            'I' => (twelve, 2, '0'),
            'j' => (self.day_of_year + 1, 3, '0'),
            'k' => (hour, 2, ' '),
            'l' => (twelve, 2, ' '),
            'm' => (self.month, 2, '0'),
            'M' => (self.seconds / 60 % 60, 2, '0'),
            's' => (self.seconds, 1, '0'),
            'S' => (self.seconds % 60, 2, '0'),
            'u' => (monday + 1, 1, '0'),
            'U' => ((self.day_of_year + 7 - self.weekday) / 7, 2, '0'),
            'V' => (iso_week, 2, '0'),
            'w' => (self.weekday, 1, '0'),
            'W' => ((self.day_of_year + 7 - monday) / 7, 2, '0'),
            'y' => (self.year % 100, 2, '0'),
            'Y' => (self.year, 1, '0'),
            _ => return None,
        };
        Some(match padding.unwrap_or(usual) {
            '-' => number.to_string(),
            '0' => format!("{number:0width$}"),
            _ => format!("{number:width$}"),
        })
    }

    /// What a conversion to a word gives.
    fn word(&self, conversion: char) -> Option<String> {
        let (month, weekday) = (MONTHS[self.month as usize - 1], WEEKDAYS[self.weekday as usize]);
        let is_morning = self.seconds / 3600 % 24 < 12;
        let word = match conversion {
            'a' => &weekday[..3],
            'A' => weekday,
            'b' | 'h' => &month[..3],
            'B' => month,
            'n' => "\n",
            'p' if is_morning => "AM",
            'p' => "PM",
            'P' if is_morning => "am",
            'P' => "pm",
            't' => "\t",
            // A time without a zone has neither name nor offset.
            'z' | 'Z' => "",
            '%' => "%",
            _ => return None,
        };
        Some(word.to_owned())
    }

    /// Year and week of ISO 8601: weeks begin on Mondays, and the first one has a Thursday.
    fn iso_week(&self) -> (u64, u64) {
        let monday = (self.weekday + 6) % 7;
        // The Thursday of this week, as a day of the year.
        match (self.day_of_year + 3).checked_sub(monday) {
            None => {
                let before = self.year - 1;
                (before, (self.day_of_year + days_of(before) + 3 - monday) / 7 + 1)
            }
            Some(thursday) if thursday >= days_of(self.year) => (self.year + 1, 1),
            Some(thursday) => (self.year, thursday / 7 + 1),
        }
    }
}

/// Days of `year`.
fn days_of(year: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(is_leap)
}

/// Days from 1970-01-01 to the first day of `year`.
fn days_before(year: u64) -> u64 {
    let last = year - 1;
    365 * (year - 1970) + (last / 4 - last / 100 + last / 400) - (1969 / 4 - 1969 / 100 + 1969 / 400)
}

/// Year, month and day of a number of days since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms"): years start in March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_pythons_strftime() {
        /// Conversions, and what each gives at some times.
        #[derive(serde::Deserialize)]
        struct Golden {
            dates: BTreeMap<String, BTreeMap<String, String>>,
        }
        let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/templates.json")).unwrap();
        assert!(golden.dates.len() > 5);
        for (seconds, formats) in golden.dates {
            let time = UNIX_EPOCH + Duration::from_secs(seconds.parse().unwrap());
            for (format, expected) in formats {
                assert_eq!(strftime(time, &format).unwrap(), expected, "{format} at {seconds}");
            }
        }
    }

    #[test]
    fn a_conversion_that_is_not_known_is_named() {
        assert_eq!(strftime(UNIX_EPOCH, "%-d/%-m/%y %I%%").unwrap(), "1/1/70 12%");
        for format in ["%Q", "%", "a%-"] {
            assert!(strftime(UNIX_EPOCH, format).unwrap_err().to_string().contains("conversion %"), "{format}");
        }
    }
}
