//! The trace that a request belongs to: W3C Trace Context, `traceparent`.

use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use uuid::Uuid;

/// The header.
pub const TRACE_PARENT: &str = "traceparent";

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    whole: u128,
    span: u64,
    flags: u8,
}

impl Trace {
    /// A place below the one that a request's headers name, or the first one of a new trace.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(TRACE_PARENT).and_then(|value| value.to_str().ok());
        given.and_then(|text| text.parse().ok()).map_or_else(Self::begin, |parent: Self| parent.below())
    }

    /// The first place of a new trace. Nobody has asked for it to be recorded.
    pub fn begin() -> Self {
        Self { whole: Uuid::new_v4().as_u128(), span: span(), flags: 0 }
    }

    /// A place below this one.
    #[must_use]
    pub fn below(self) -> Self {
        Self { span: span(), ..self }
    }

    /// Names the trace in logs.
    pub fn id(&self) -> String {
        format!("{:032x}", self.whole)
    }
}

fn span() -> u64 {
    // A version 4 UUID has fixed bits in both halves: together they are neither zero nor short of randomness.
    let (high, low) = Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.whole, self.span, self.flags)
    }
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTrace;

impl FromStr for Trace {
    type Err = NoTrace;

    fn from_str(text: &str) -> Result<Self, NoTrace> {
        let mut parts = text.trim().split('-');
        let mut part = |len: usize| {
            let part = parts.next().filter(|part| part.len() == len).ok_or(NoTrace)?;
            let hex = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if hex { Ok(part) } else { Err(NoTrace) }
        };
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // Later versions may add parts; the first one has four.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(NoTrace);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| NoTrace)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| NoTrace)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NoTrace)?;
        if trace == 0 || span == 0 { Err(NoTrace) } else { Ok(Self { whole: trace, span, flags }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_where_the_request_came_from() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: Trace = text.parse().unwrap();
        assert_eq!(parent.to_string(), text);
        let mut headers = HeaderMap::new();
        headers.insert(TRACE_PARENT, text.parse().unwrap());
        let here = Trace::of(&headers);
        assert_eq!((here.whole, here.flags), (parent.whole, 1));
        assert_ne!(here.span, parent.span);
    }

    #[test]
    fn nonsense_begins_a_new_trace() {
        for bad in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<Trace>(), Err(NoTrace), "{bad}");
        }
        assert_ne!(Trace::of(&HeaderMap::new()).to_string(), Trace::of(&HeaderMap::new()).to_string());
    }
}
