//! What logins and passwords may be, and temporary ones.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::token::readable;

use crate::error::{ApiError, ApiResult};
use crate::secret;

/// How long a temporary password is good.
const TEMPORARY: TimeDelta = TimeDelta::days(1);
/// Short ones are guessed; bcrypt looks at no more than 72 bytes, and what it does not look at protects nobody.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=secret::MOST;
const MAX_LOGIN: usize = 64;

/// Requires a login of 1 to 64 lower-case letters, digits and `.-_@+`.
pub fn check_login(login: &str) -> ApiResult<()> {
    let good = (1..=MAX_LOGIN).contains(&login.len())
        && login.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_@+".contains(&b));
    if good {
        return Ok(());
    }
    Err(ApiError::invalid("a login has 1 to 64 lower-case letters, digits and .-_@+"))
}

/// Requires a password that is worth the name. By NIST SP 800-63B: length counts, rules about characters don't.
pub fn check(password: &str, login: &str) -> ApiResult<()> {
    if !LENGTH.contains(&password.len()) || password.contains('\0') {
        return Err(ApiError::invalid("a password has 12 to 72 bytes"));
    }
    let lower = password.to_lowercase();
    let mut characters = lower.chars();
    let first = characters.next();
    if lower.contains(login) && lower.len() < login.len() + 8 || characters.all(|c| Some(c) == first) {
        return Err(ApiError::invalid("a password is not the login, and not one character again and again"));
    }
    Ok(())
}

/// A password that must be changed, and when it ends.
pub fn temporary(now: DateTime<Utc>) -> ApiResult<(String, DateTime<Utc>)> {
    Ok((readable::<15>(secret::random()?), now + TEMPORARY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_and_not_the_login() {
        for bad in ["", "short", "elevenbytes", "ada.lovelace1", "aaaaaaaaaaaaaaaa", &"x1".repeat(37)] {
            assert!(check(bad, "ada.lovelace").is_err(), "{bad}");
        }
        for good in ["correct horse battery", "пароль-из-слов", &"x1".repeat(36)] {
            check(good, "ada.lovelace").unwrap();
        }
        for bad in ["", "Ada", "a b", "ada\n", &"a".repeat(65), "ада"] {
            assert!(check_login(bad).is_err(), "{bad}");
        }
        check_login("ada.lovelace+ops@example.com").unwrap();
    }
}
