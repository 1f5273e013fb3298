//! The three date forms that the protocols need, without a calendar dependency.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

struct Civil {
    year: u64,
    month: u64,
    day: u64,
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

/// A time shifted by a number of seconds.
pub(crate) fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - by } else { time + by }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Proleptic Gregorian calendar from days since 1970, counted in 400-year eras that begin in
/// March so that the leap day comes last.
fn civil(time: SystemTime) -> Civil {
    let total = seconds(time);
    let (days, rest) = (total / 86_400, total % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    Civil {
        year,
        month,
        day,
        weekday: usize::try_from(days % 7).unwrap_or(0),
        hour: rest / 3_600,
        minute: rest % 3_600 / 60,
        second: rest % 60,
    }
}

fn from_civil(year: u64, month: u64, day: u64, second_of_day: u64) -> Option<SystemTime> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    let seconds = days
        .checked_sub(719_468)?
        .checked_mul(86_400)?
        .checked_add(second_of_day)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// IMF-fixdate (RFC 9110 §5.6.7), as in `Last-Modified`.
pub(crate) fn http_date(time: SystemTime) -> String {
    let c = civil(time);
    let month = MONTHS[usize::try_from(c.month - 1).unwrap_or(0)];
    format!(
        "{}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[c.weekday], c.day, c.year, c.hour, c.minute, c.second
    )
}

/// Parses only IMF-fixdate: no client here sends the two obsolete forms of RFC 9110.
pub(crate) fn parse_http_date(text: &str) -> Option<SystemTime> {
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year = parts.next()?.parse().ok()?;
    let clock = parts.next()?;
    if parts.next()? != "GMT" {
        return None;
    }
    from_civil(year, month, day, clock_seconds(&clock.replace(':', ""))?)
}

fn clock_seconds(hhmmss: &str) -> Option<u64> {
    if hhmmss.len() != 6 || !hhmmss.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = hhmmss.parse().ok()?;
    Some(number / 10_000 * 3_600 + number / 100 % 100 * 60 + number % 100)
}

/// `YYYY-MM-DDTHH:MM:SS.000Z`, as in the responses of S3.
pub(crate) fn iso_date(time: SystemTime) -> String {
    let c = civil(time);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000Z",
        c.year, c.month, c.day, c.hour, c.minute, c.second
    )
}

/// `YYYYMMDDTHHMMSSZ`, as in `x-amz-date`.
pub(crate) fn parse_amz_date(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z')?;
    let (date, clock) = text.split_once('T')?;
    if date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let date: u64 = date.parse().ok()?;
    from_civil(
        date / 10_000,
        date / 100 % 100,
        date % 100,
        clock_seconds(clock)?,
    )
}

/// HTTP dates carry whole seconds; comparing finer ones would never match.
pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_print_in_each_form_and_read_back() {
        let time = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        assert_eq!(http_date(time), "Thu, 29 Feb 2024 12:34:56 GMT");
        assert_eq!(iso_date(time), "2024-02-29T12:34:56.000Z");
        assert_eq!(parse_http_date("Thu, 29 Feb 2024 12:34:56 GMT"), Some(time));
        assert_eq!(parse_amz_date("20240229T123456Z"), Some(time));
        for day in 0..40_000_u64 {
            let time = UNIX_EPOCH + Duration::from_secs(day * 86_400 + 86_399);
            assert_eq!(parse_http_date(&http_date(time)), Some(time));
        }
    }

    #[test]
    fn an_invalid_date_is_refused() {
        for text in [
            "",
            "Thu, ",
            "Thu, 99 Feb 2024 12:34:56 GMT",
            "x, 1 Jan 99999 0:0:0 GMT",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
        assert_eq!(parse_amz_date("2024é229T123456Z"), None);
    }

    proptest! {
        #[test]
        fn every_second_comes_back_and_any_text_is_survived(
            second in 0_u64..250_000_000_000,
            text in ".{0,40}",
        ) {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            prop_assert_eq!(parse_http_date(&http_date(time)), Some(time));
            let packed: String = iso_date(time).replace(".000", "").replace(['-', ':'], "");
            prop_assert_eq!(parse_amz_date(&packed), Some(time));
            parse_http_date(&text);
            parse_amz_date(&text);
        }
    }
}
