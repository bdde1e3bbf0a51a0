//! Versions by Semantic Versioning 2.0.0, and which of two is the higher.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a version is three numbers without leading zeros, as 1.4.0, 2.0.0-rc.1 or 1.0.0+build, of at \
     most {max} characters",
    max = limits::VERSION_BYTES_MAX
)]
pub struct Invalid;

/// A version. Reads and writes as its text. Two versions that differ in what stands after the `+`
/// alone are equally high, though not equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    text: String,
    core: [u64; 3],
    pre: Vec<Identifier>,
}

/// Part of what stands after the `-`. A number is lower than a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

impl Version {
    /// Reads a version.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::read(text).filter(|_| text.len() <= limits::VERSION_BYTES_MAX).ok_or(Invalid)
    }

    fn read(text: &str) -> Option<Self> {
        let (rest, build) = match text.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (text, None),
        };
        let (core, pre) = match rest.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (rest, None),
        };
        if build.is_some_and(|build| !build.split('.').all(is_identifier)) {
            return None;
        }
        let core: Vec<u64> = core.split('.').map(number).collect::<Option<_>>()?;
        let pre = pre.map_or(Some(Vec::new()), |p| p.split('.').map(Identifier::read).collect())?;
        Some(Self { text: text.to_owned(), core: core.try_into().ok()?, pre })
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Which of the two comes first.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let released = |version: &Self| version.pre.is_empty();
        self.core
            .cmp(&other.core)
            .then(released(self).cmp(&released(other)))
            .then(self.pre.cmp(&other.pre))
    }
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits && (text == "0" || !text.starts_with('0')))
}

impl Identifier {
    fn read(text: &str) -> Option<Self> {
        match text.bytes().all(|b| b.is_ascii_digit()) {
            true => number(text).map(Self::Number),
            false => is_identifier(text).then(|| Self::Text(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for Version {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.text
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_in_order() {
        let order = [
            "0.0.0",
            "0.0.1",
            "0.1.0",
            "1.0.0-0",
            "1.0.0-2",
            "1.0.0-10",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.9.0",
            "1.10.0",
            "18446744073709551615.0.0",
        ];
        for (at, lower) in order.iter().enumerate() {
            let lower = Version::parse(lower).unwrap();
            assert_eq!(lower.precedence(&lower), Ordering::Equal);
            for higher in &order[at + 1..] {
                let higher = Version::parse(higher).unwrap();
                assert_eq!(lower.precedence(&higher), Ordering::Less, "{lower} {higher}");
                assert_eq!(higher.precedence(&lower), Ordering::Greater, "{lower} {higher}");
            }
        }
        let (a, b) = (Version::parse("1.0.0+a").unwrap(), Version::parse("1.0.0+b-1.0").unwrap());
        assert_eq!(a.precedence(&b), Ordering::Equal);
        assert_ne!(a, b);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for bad in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "v1.0.0",
            "01.0.0",
            "1.00.0",
            "1.0.0-",
            "1.0.0-01",
            "1.0.0+",
            "1.0.0-a..b",
            "1.0.0+a+b",
            "1.0.0-ä",
            " 1.0.0",
            "1.0.0 ",
            "-1.0.0",
            "+1.0.0",
            "1.0.x",
            "18446744073709551616.0.0",
            &format!("1.0.0-{}", "a".repeat(60)),
        ] {
            assert_eq!(Version::parse(bad), Err(Invalid), "{bad}");
        }
    }
}
