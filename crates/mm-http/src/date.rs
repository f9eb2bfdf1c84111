//! Dates in the form that HTTP wants (RFC 9110 section 5.6.7, IMF-fixdate).

use core::fmt;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const DAY: u64 = 24 * 60 * 60;
/// Days of 400 years, after which the calendar repeats.
const ERA: u64 = 146_097;
/// 9999-12-31T23:59:59Z: the form has four digits for the year.
const LAST: u64 = 253_402_300_799;

/// Seconds since 1970-01-01T00:00:00Z, shown as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) struct HttpDate(pub(crate) u64);

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.min(LAST);
        let (days, time) = (seconds / DAY, seconds % DAY);
        let (year, month, day) = civil(days);
        let weekday = usize::try_from(days % 7).map_or("", |index| DAYS[index]);
        let month = usize::try_from(month).map_or("", |index| MONTHS[index]);
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        write!(f, "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

/// Year, month from 0 and day from 1 of a number of days since 1970-01-01.
///
/// Years are counted from 1 March, so that the leap day is the last of its year and month lengths repeat every five
/// months (153 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(from_march >= 10);
    (year, month, day)
}
