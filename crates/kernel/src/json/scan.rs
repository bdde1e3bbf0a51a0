//! The one pass over a text that decides whether it is accepted.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Error, pointer};
use crate::limits;

/// Checks a whole text of at most `max` bytes.
pub(super) fn check(text: &str, max: usize) -> Result<(), Error> {
    scan(text, max, survives)
}

/// Checks a whole text of which nothing is computed: a number may be any that a double reads.
pub(super) fn check_shown(text: &str, max: usize) -> Result<(), Error> {
    scan(text, max, |number| number.parse::<f64>().is_ok_and(f64::is_finite))
}

fn scan(text: &str, max: usize, number: fn(&str) -> bool) -> Result<(), Error> {
    if text.len() > max {
        return Err(Error::TooLong { bytes: text.len(), max });
    }
    let mut scanner = Scanner { text, at: 0, depth: 0, number };
    scanner.space();
    scanner.value()?;
    scanner.space();
    match scanner.peek() {
        None => Ok(()),
        Some(_) => Err(scanner.syntax("nothing after the value")),
    }
}

/// Reads a text once, from front to back.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Which numbers are taken.
    number: fn(&str) -> bool,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes `byte` if it is next.
    fn pass(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Passes `byte`, which has to be next.
    fn need(&mut self, byte: u8, need: &'static str) -> Result<(), Error> {
        if self.pass(byte) { Ok(()) } else { Err(self.syntax(need)) }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The text from `start` to here. Both lie next to ASCII, so never inside a character.
    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn syntax(&self, need: &'static str) -> Error {
        Error::Syntax { at: String::new(), offset: self.at, need }
    }

    fn value(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.syntax("a value")),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Error> {
        for byte in word.bytes() {
            self.need(byte, "true, false or null")?;
        }
        Ok(())
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        if self.depth == limits::JSON_DEPTH_MAX {
            return Err(Error::TooDeep { at: String::new() });
        }
        self.depth += 1;
        self.at += 1;
        self.space();
        read(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self) -> Result<(), Error> {
        if self.pass(b']') {
            return Ok(());
        }
        for index in 0_usize.. {
            self.space();
            self.value().map_err(|e| e.inside(&index.to_string()))?;
            self.space();
            if self.pass(b']') {
                break;
            }
            self.need(b',', "a comma or a closing bracket")?;
        }
        Ok(())
    }

    fn object(&mut self) -> Result<(), Error> {
        if self.pass(b'}') {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        loop {
            self.space();
            let key = self.string()?;
            if !seen.insert(key.clone()) {
                return Err(Error::DuplicateKey { at: pointer(&key, "") });
            }
            self.space();
            self.need(b':', "a colon").map_err(|e| e.inside(&key))?;
            self.space();
            self.value().map_err(|e| e.inside(&key))?;
            self.space();
            if self.pass(b'}') {
                return Ok(());
            }
            self.need(b',', "a comma or a closing brace")?;
        }
    }

    /// A string, unescaped.
    fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        self.need(b'"', "a string in double quotes")?;
        let mut unescaped = Cow::Borrowed("");
        loop {
            let plain = self.plain();
            if unescaped.is_empty() {
                unescaped = Cow::Borrowed(plain);
            } else {
                unescaped.to_mut().push_str(plain);
            }
            if self.pass(b'"') {
                return Ok(unescaped);
            }
            self.need(b'\\', "a closing quote, or an escape for a control character")?;
            let escaped = self.escape()?;
            unescaped.to_mut().push(escaped);
        }
    }

    /// The characters up to the next quote, escape or control character.
    fn plain(&mut self) -> &'a str {
        let start = self.at;
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        self.at += rest.iter().position(special).unwrap_or(rest.len());
        self.since(start)
    }

    fn escape(&mut self) -> Result<char, Error> {
        let kind = self.peek();
        self.at += 1;
        Ok(match kind {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => {
                self.at -= 1;
                return Err(self.syntax("one of \" \\ / b f n r t u"));
            }
        })
    }

    /// One or, for a surrogate pair, two UTF-16 units in hexadecimal.
    fn unicode(&mut self) -> Result<char, Error> {
        let mut units = vec![self.unit()?];
        if matches!(units.as_slice(), [0xd800..0xdc00]) && self.pass(b'\\') {
            self.need(b'u', "the second half of a surrogate pair")?;
            units.push(self.unit()?);
        }
        let mut decoded = char::decode_utf16(units);
        match (decoded.next(), decoded.next()) {
            (Some(Ok(c)), None) => Ok(c),
            _ => Err(Error::LoneSurrogate { at: String::new() }),
        }
    }

    fn unit(&mut self) -> Result<u16, Error> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit.and_then(|digit| u16::try_from(digit).ok()) else {
                return Err(self.syntax("four hexadecimal digits"));
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        self.pass(b'-');
        if !self.pass(b'0') {
            self.digits()?;
        }
        if self.pass(b'.') {
            self.digits()?;
        }
        if self.pass(b'e') || self.pass(b'E') {
            let _signed = self.pass(b'+') || self.pass(b'-');
            self.digits()?;
        }
        match (self.number)(self.since(start)) {
            true => Ok(()),
            false => Err(Error::Number { at: String::new() }),
        }
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax("a digit")) } else { Ok(()) }
    }
}

/// The largest whole number up to which doubles keep each one apart from the next.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Characters of a number. The smallest double, written out without an exponent, has under 400.
const NUMBER_CHARS_MAX: usize = 400;

/// Decimal digits that a double keeps whatever they are, where there is no exponent.
const PLAIN_DIGITS_MAX: usize = 15;

/// Whether reading a number as a double and printing that as ECMAScript (and so RFC 8785) does
/// gives the same number, within ±2^53. Every double beyond is whole, but not next to its
/// neighbour.
fn survives(number: &str) -> bool {
    let plain = number.strip_prefix('-').unwrap_or(number);
    if plain.len() <= PLAIN_DIGITS_MAX && !plain.contains(['e', 'E']) {
        return true;
    }
    if number.len() > NUMBER_CHARS_MAX {
        return false;
    }
    let Ok(double) = number.parse::<f64>() else { return false };
    let exact = Decimal::read(number);
    double.abs() <= WHOLE_MAX
        && exact.is_some()
        && exact == Decimal::read(ryu_js::Buffer::new().format_finite(double))
}

/// A magnitude: digits without zeros at either end, times a power of ten.
#[derive(PartialEq, Eq)]
struct Decimal {
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a JSON number, less its sign.
    fn read(number: &str) -> Option<Self> {
        let number = number.trim_start_matches('-');
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Self { digits: String::new(), exponent: 0 });
        }
        let shift = digits.len() - significant.len();
        let exponent = exponent.parse::<i64>().ok()?;
        let exponent = exponent
            .checked_sub(i64::try_from(fraction.len()).ok()?)?
            .checked_add(i64::try_from(shift).ok()?)?;
        Some(Self { digits: significant.trim_start_matches('0').to_owned(), exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NUMBER: &str = "-?(0|[1-9][0-9]{0,19})(\\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?";

    proptest! {
        #[test]
        fn refuses_a_number_or_keeps_it(number in NUMBER) {
            let double: f64 = number.parse().unwrap();
            let printed = serde_json::to_string(&double).unwrap();
            let kept = Decimal::read(&number) == Decimal::read(&printed);
            if check(&number, 64).is_ok() {
                prop_assert!(kept);
            } else {
                prop_assert!(!kept || double.abs() > WHOLE_MAX);
            }
        }
    }
}
