//! `Range` and the conditions around it (RFC 9110, sections 13 and 14).

use std::ops::Range;

use http::{HeaderMap, header};

/// Which part of a file is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that are not there.
    Unsatisfiable,
    /// Nothing: the caller has it.
    NotModified,
}

/// What the headers ask of a file of so many bytes with this entity tag. Ranges that are malformed, of another
/// unit or more than one are ignored, as the RFC permits.
pub(super) fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, etag)) {
        return Wanted::NotModified;
    }
    let Some(range) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    // A date can't tell two versions apart, so only the tag itself keeps the range.
    if text(header::IF_RANGE).is_some_and(|tag| tag.trim() != etag) {
        return Wanted::Whole;
    }
    parse(range.trim(), size).unwrap_or(Wanted::Whole)
}

/// Whether a list of entity tags has this one, by weak comparison.
pub(super) fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn parse(range: &str, size: u64) -> Option<Wanted> {
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if range.is_empty() { Wanted::Unsatisfiable } else { Wanted::Part(range) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pairs: &[(header::HeaderName, &str)], size: u64) -> Wanted {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        wanted(&headers, "\"tag\"", size)
    }

    #[test]
    fn ranges() {
        for (range, size, expected) in [
            ("bytes=0-0", 10, Wanted::Part(0..1)),
            ("bytes=2-5", 10, Wanted::Part(2..6)),
            ("bytes=2-", 10, Wanted::Part(2..10)),
            ("bytes=-3", 10, Wanted::Part(7..10)),
            ("bytes=-30", 10, Wanted::Part(0..10)),
            ("bytes=5-99999999999999999999999", 10, Wanted::Part(5..10)),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=10-20", 10, Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=0-", 0, Wanted::Unsatisfiable),
            ("bytes=5-2", 10, Wanted::Whole),
            ("bytes=1-2,4-5", 10, Wanted::Whole),
            ("bytes=a-b", 10, Wanted::Whole),
            ("bytes=+1-2", 10, Wanted::Whole),
            ("lines=1-2", 10, Wanted::Whole),
            ("bytes=-", 10, Wanted::Whole),
        ] {
            assert_eq!(ask(&[(header::RANGE, range)], size), expected, "{range} of {size}");
        }
    }

    #[test]
    fn conditions() {
        let range = (header::RANGE, "bytes=1-2");
        let if_range = |tag| ask(&[range.clone(), (header::IF_RANGE, tag)], 10);
        assert_eq!(if_range("\"tag\""), Wanted::Part(1..3));
        assert_eq!(if_range("\"other\""), Wanted::Whole);
        assert_eq!(if_range("Wed, 21 Oct 2015 07:28:00 GMT"), Wanted::Whole);
        let none_match = |tags| ask(&[range.clone(), (header::IF_NONE_MATCH, tags)], 10);
        assert_eq!(none_match("\"tag\""), Wanted::NotModified);
        assert_eq!(none_match("\"a\", W/\"tag\""), Wanted::NotModified);
        assert_eq!(none_match("*"), Wanted::NotModified);
        assert_eq!(none_match("\"other\""), Wanted::Part(1..3));
    }
}
