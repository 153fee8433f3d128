//! Owns how durations, sizes, numbers, words and "off" are read and written. It must not know which setting a
//! value belongs to.

use super::error::any_of;
use super::foreign;
use super::raw::Value;
use super::words;
use crate::health::Percent;
use crate::limit::rate::Rate;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A duration above zero.
pub(super) fn duration(value: &Value<'_>) -> Option<Duration> {
    let found = duration_or_zero(value)?;
    if found.is_zero() { value.wrong("expected more than zero") } else { Some(found) }
}

/// A duration of at most a year.
pub(super) fn duration_or_zero(value: &Value<'_>) -> Option<Duration> {
    let found = value.as_str().and_then(parse_duration);
    let Some(found) = found else { return value.wrong("expected a duration with a unit, like \"60s\"") };
    if found > LONGEST { value.wrong("expected 365 days at most") } else { Some(found) }
}

/// A duration within bounds that the kernel sets, in whole units.
pub(super) fn duration_within(
    bounds: RangeInclusive<Duration>,
    unit: Duration,
) -> impl Fn(&Value<'_>) -> Option<Duration> {
    move |value| {
        let found = duration(value)?;
        let is_whole = found.as_nanos().is_multiple_of(unit.as_nanos());
        if bounds.contains(&found) && is_whole {
            return Some(found);
        }
        let [low, high, unit] = [*bounds.start(), *bounds.end(), unit].map(write_duration);
        value.wrong(format!("expected \"{low}\" to \"{high}\" in steps of \"{unit}\""))
    }
}

/// A percentage, like "50%".
pub(super) fn percent(value: &Value<'_>) -> Option<Percent> {
    let number = value.as_str().and_then(|text| text.strip_suffix('%'));
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let found = number.and_then(|number| number.parse().ok()).filter(|number| *number <= 100);
    found.map(Percent).or_else(|| value.wrong("expected a part like \"50%\", 0% to 100%"))
}

/// A size in bytes, at least one.
pub(super) fn size(value: &Value<'_>) -> Option<u64> {
    let number = value.as_integer().and_then(|number| number.try_into().ok());
    let found = number.or_else(|| value.as_str().and_then(parse_size));
    let Some(found) = found else { return value.wrong("expected a size in bytes, like 65536 or \"64k\"") };
    if found == 0 { value.wrong("expected more than zero") } else { Some(found) }
}

/// A whole number within bounds.
pub(super) fn integer<T>(bounds: RangeInclusive<T>) -> impl Fn(&Value<'_>) -> Option<T>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    move |value| {
        let number = value.as_integer().and_then(|number| T::try_from(number).ok());
        number.filter(|number| bounds.contains(number)).or_else(|| {
            value.wrong(format!("expected a whole number, {} to {}", bounds.start(), bounds.end()))
        })
    }
}

/// What [`rate`] reads.
pub(super) const A_RATE: &str = "expected a rate like \"10/s\", \"60/m\" or \"100/h\"";

/// A count for each second, minute or hour.
pub(super) fn rate(value: &Value<'_>) -> Option<(NonZeroU32, Duration)> {
    let parsed = value.as_str().and_then(|text| {
        let (count, per) = text.split_once('/')?;
        let per = words::PER.iter().find(|(word, _)| *word == per)?.1;
        Some((count.parse().ok()?, per))
    });
    parsed.or_else(|| value.wrong(A_RATE))
}

/// The meaning of one of `words`.
pub(super) fn word<T: Clone>(words: &[(&str, T)]) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| {
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        found.map(|(_, meaning)| meaning.clone()).or_else(|| value.wrong(one_of(words, None)))
    }
}

/// `expected "a", "b" or ...`, for a message.
pub(super) fn one_of<T>(words: &[(&str, T)], or_else: Option<&str>) -> String {
    let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    format!("expected {}", any_of(quoted.iter().map(String::as_str).chain(or_else)))
}

/// Returns the word for a meaning. `words` has each meaning once.
pub(super) fn word_for<'a, T: PartialEq>(words: &[(&'a str, T)], meaning: &T) -> &'a str {
    words.iter().find(|(_, known)| known == meaning).map_or("", |&(word, _)| word)
}

/// A name: one line, not empty.
pub(super) fn name(value: &Value<'_>) -> Option<String> {
    let found = value.as_str().filter(|text| is_name(text)).map(str::to_owned);
    found.or_else(|| value.wrong("expected a text of one line that is not empty"))
}

/// Whether a text is one line and not empty, so that a log can name something by it.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

/// The path of a file, which is noted.
pub(super) fn path(value: &Value<'_>) -> Option<PathBuf> {
    let found = value.as_str().filter(|text| is_name(text)).map(PathBuf::from);
    found.as_deref().inspect(|path| value.is_file(path));
    found.or_else(|| value.wrong("expected a path"))
}

/// A text that its type parses. The errors of the type say what is expected.
pub(super) fn parsed<T: FromStr<Err: Display>>(value: &Value<'_>) -> Option<T> {
    // None of these types parses the empty text, so a value that is not a text is refused too.
    let text = value.as_str().unwrap_or_default();
    text.parse().map_err(|error| value.wrong::<T>(error)).ok()
}

/// Like [`parsed`]. If the text is nearly right, `hint` says what the operator probably meant.
pub(super) fn parsed_or_hint<T: FromStr<Err: Display>>(
    hint: impl Fn(&str) -> Option<String>,
) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| {
        let number = value.as_integer().map(|number| number.to_string());
        let text = value.as_str().or(number.as_deref()).unwrap_or_default();
        match (value.as_str().unwrap_or_default().parse(), hint(text)) {
            (Ok(read), _) => Some(read),
            (Err(_), Some(hint)) => value.wrong(hint),
            (Err(error), None) => value.wrong(error),
        }
    }
}

/// A text in which `$$` stands for `$`. Variables are mistakes, because Holdline has none; `hint` says what
/// to write instead of one.
pub(super) fn literal(
    value: &Value<'_>,
    remedy: &str,
    hint: impl Fn(&str) -> Option<&'static str>,
) -> Option<String> {
    let variable = match foreign::unescape_dollars(value.text(remedy)?) {
        Ok(text) => return Some(text),
        Err(variable) => variable,
    };
    let hint = hint(&variable).map(|hint| format!(": {hint}")).unwrap_or_default();
    value.wrong(format!(
        "expected no variable, because Holdline would send {variable} as it stands{hint}; $$ is a dollar sign"
    ))
}

/// What `read` reads. `None` means "off".
pub(super) fn off_or<'a, T>(
    read: impl Fn(&Value<'a>) -> Option<T>,
) -> impl Fn(&Value<'a>) -> Option<Option<T>> {
    move |value| if value.is_off() { Some(None) } else { read(&value.clone().or_off()).map(Some) }
}

/// What `read` reads. "off" is zero.
pub(super) fn off_or_zero<'a, T: Default>(
    read: impl Fn(&Value<'a>) -> Option<T>,
) -> impl Fn(&Value<'a>) -> Option<T> {
    let read = off_or(read);
    move |value| read(value).map(Option::unwrap_or_default)
}

/// The items of a list. `remedy` says what is expected if the value is no list.
pub(super) fn list<'a, T>(
    remedy: &str,
    read: impl Fn(&Value<'a>) -> Option<T>,
) -> impl Fn(&Value<'a>) -> Option<Vec<T>> {
    move |value| Some(value.list(remedy)?.iter().filter_map(&read).collect())
}

/// "250ms", "90s", "1h 30m".
fn parse_duration(text: &str) -> Option<Duration> {
    // humantime also reads a bare "0", but here a duration always has a unit.
    let has_unit = text.contains(|c: char| c.is_ascii_alphabetic());
    if has_unit { humantime::parse_duration(text).ok() } else { None }
}

/// "512", "64k", "1m", "2g"; k is 1024 as in nginx.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.to_ascii_lowercase().strip_suffix(['k', 'm', 'g']) {
        Some(digits) if text.ends_with(['k', 'K']) => (digits.to_owned(), KIB),
        Some(digits) if text.ends_with(['m', 'M']) => (digits.to_owned(), KIB * KIB),
        Some(digits) => (digits.to_owned(), KIB * KIB * KIB),
        None => (text.to_owned(), 1),
    };
    // `u64::from_str` also reads a sign.
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(factor)
}

/// Writes a duration as [`duration`] reads it, in the largest unit that divides it.
pub(super) fn write_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let whole = UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{nanos}ns"), |(name, unit)| format!("{}{name}", nanos / unit))
}

/// A size as [`size`] reads it.
pub(super) fn write_size(size: u64) -> String {
    match size {
        size if size.is_multiple_of(KIB * KIB) => format!("{}m", size / (KIB * KIB)),
        size if size.is_multiple_of(KIB) => format!("{}k", size / KIB),
        size => size.to_string(),
    }
}

/// A rate as [`rate`] reads it.
pub(super) fn write_rate(rate: Rate) -> String {
    format!("{}/{}", rate.events(), word_for(words::PER, &rate.per()))
}

const KIB: u64 = 1024;

/// Nanoseconds of a unit.
const UNITS: [(&str, u128); 5] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];

/// Operators who write more mean "off", and an instant that far away may not exist.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_a_unit() {
        let good = [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)];
        for (text, millis) in good {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("1h 30m"), Some(Duration::from_secs(5400)));
        for text in ["", "60", "0", "s", "-1s", "10 apples", "1e3s", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_count_in_1024() {
        let good = [("512", 512), ("64k", 65_536), ("64K", 65_536), ("1m", 1_048_576), ("2g", 2_147_483_648)];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "k", "+1k", "-1", "1.5m", "64kb", "99999999999999999999", "99999999999999g"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_the_largest_whole_unit() {
        let seconds = |secs| write_duration(Duration::from_secs(secs));
        assert_eq!([seconds(0), seconds(60), seconds(90), seconds(86_400)], ["0s", "1m", "90s", "24h"]);
        assert_eq!(write_duration(Duration::from_micros(1500)), "1500us");
    }

    proptest! {
        #[test]
        fn a_duration_reads_as_it_was_written(secs in 0..40_000_000_u64, nanos in 0..1_000_000_000_u32) {
            for duration in [Duration::new(secs, nanos), Duration::from_secs(secs)] {
                prop_assert_eq!(parse_duration(&write_duration(duration)), Some(duration));
            }
        }

        #[test]
        fn a_size_reads_as_it_was_written(size: u64, small in 0..100_000_u64) {
            for size in [size, small, small * KIB, small * KIB * KIB] {
                prop_assert_eq!(parse_size(&write_size(size)), Some(size));
            }
        }

        #[test]
        fn what_is_read_of_an_odd_text_has_a_number_and_can_be_written(text in "[ 0-9a-zA-Z+.-]{0,9}", odd: String) {
            for text in [text, odd] {
                if let Some(read) = parse_duration(&text) {
                    prop_assert!(text.contains(|c: char| c.is_ascii_digit()), "{}", text);
                    prop_assert_eq!(parse_duration(&write_duration(read)), Some(read));
                }
                if let Some(read) = parse_size(&text) {
                    prop_assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{}", text);
                    prop_assert_eq!(parse_size(&write_size(read)), Some(read));
                }
            }
        }
    }
}
