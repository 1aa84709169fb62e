//! Sizes as people write them: `4MB`, `64 KiB`, `1048576`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. As text `KB`, `MB`, `GB`, `TB` and `KiB`, `MiB`, `GiB`, `TiB` all mean powers of 1024, as
/// the configuration files of the field do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "u64")]
pub struct ByteSize(pub u64);

/// A size in a configuration file: a number or text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

/// Text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write a number of bytes or, for example, 4MB")]
pub struct InvalidSize(String);

const UNITS: [(&str, u32); 5] = [("TIB", 40), ("GIB", 30), ("MIB", 20), ("KIB", 10), ("B", 0)];

impl FromStr for ByteSize {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(text.chars().take(40).collect());
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.find(|c: char| !c.is_ascii_digit()).unwrap_or(upper.len());
        let (number, unit) = upper.split_at(digits);
        let unit = match unit.trim() {
            "" => "B".to_owned(),
            u @ ("K" | "M" | "G" | "T") => format!("{u}IB"),
            u @ ("KB" | "MB" | "GB" | "TB") => format!("{}IB", &u[..1]),
            u => u.to_owned(),
        };
        let shift = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(invalid)
    }
}

impl TryFrom<Written> for ByteSize {
    type Error = InvalidSize;
    fn try_from(written: Written) -> Result<Self, InvalidSize> {
        match written {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> u64 {
        size.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| *shift > 0 && bytes >> shift > 0) else {
            return write!(f, "{bytes} B");
        };
        let (whole, rest) = (bytes >> shift, bytes & ((1 << shift) - 1));
        let tenths = u64::try_from((u128::from(rest) * 10) >> shift).unwrap_or(0);
        write!(f, "{whole}.{tenths} {}iB", &unit[..1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("4MB", 4 << 20),
            ("4 MiB", 4 << 20),
            ("64k", 64 << 10),
            (" 1GB ", 1 << 30),
            ("2TiB", 2 << 40),
            ("9b", 9),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for bad in ["", "MB", "-1", "1.5GB", "4XB", "99999999999TB", "four"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_as_we_write_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (4 << 20, "4.0 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
