//! Globs: `*` is any run of characters within a name, `?` any one of them, `[a-z]` and `[!a-z]`
//! one of a class, and `**`, alone between two slashes, any number of names.
//!
//! A wildcard never stands for a slash. What begins with a dot is a name like any other. There is
//! no escape: a class of one, `[*]`, stands for a character that is a wildcard elsewhere.

use crate::limits;

/// What one character may be: ranges, sorted and apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chars(Vec<(u32, u32)>);

const SLASH: u32 = 0x2f;
const LAST: u32 = char::MAX as u32;

impl Chars {
    fn one(c: char) -> Self {
        Self(vec![(u32::from(c), u32::from(c))])
    }

    /// Anything but a slash.
    fn any() -> Self {
        Self(vec![(0, SLASH - 1), (SLASH + 1, LAST)])
    }

    /// The members of a class.
    fn class(mut ranges: Vec<(u32, u32)>, negated: bool) -> Self {
        if negated {
            ranges.push((SLASH, SLASH));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (from, to) in ranges {
            match merged.last_mut() {
                Some((_, end)) if from <= end.saturating_add(1) => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        if !negated {
            return Self(merged);
        }
        let mut gaps = Vec::new();
        let mut next = 0;
        for (from, to) in merged {
            if next < from {
                gaps.push((next, from - 1));
            }
            next = to + 1;
        }
        if next <= LAST {
            gaps.push((next, LAST));
        }
        Self(gaps)
    }

    fn has(&self, c: char) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(c)))
    }

    fn within(&self, wider: &Self) -> bool {
        let inside = |(from, to): &(u32, u32)| wider.0.iter().any(|(a, b)| a <= from && to <= b);
        self.0.iter().all(inside)
    }
}

/// A part of the pattern of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    One(Chars),
    /// `*`.
    Run,
}

/// The pattern of one name: no slash is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(Vec<Token>);

/// Whether `text` fits `pattern`, where `any` says which parts of the pattern stand for any run and
/// `fits` whether a part fits an item. A run that has begun only ever needs to grow, so this takes
/// no more steps than the product of the lengths.
fn fits<P, T>(
    pattern: &[P],
    text: &[T],
    any: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut run: Option<(usize, usize)> = None;
    while let Some(item) = text.get(seen) {
        match pattern.get(at) {
            Some(part) if any(part) => {
                run = Some((at + 1, seen));
                at += 1;
                continue;
            }
            Some(part) if fits(part, item) => {
                (at, seen) = (at + 1, seen + 1);
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = run else { return false };
        run = Some((after, from + 1));
        (at, seen) = (after, from + 1);
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(any))
}

impl Name {
    /// Reads the pattern of a name; what is wrong with it otherwise.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' if matches!(tokens.last(), Some(Token::Run)) => {
                    return Err("write `**` alone between two slashes, and `*` within a name");
                }
                '*' => Token::Run,
                '?' => Token::One(Chars::any()),
                '[' => Token::One(class(&mut rest)?),
                ']' => return Err("write `[]]` for a bracket, or open the class with `[`"),
                '\\' => return Err("write no backslash: `[*]` stands for `*` itself"),
                c if c.is_control() => return Err("leave out control characters"),
                c => Token::One(Chars::one(c)),
            });
        }
        Ok(Self(tokens))
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        if name.contains(&'/') {
            return false;
        }
        fits(&self.0, &name, is_run, |token, c| matches!(token, Token::One(set) if set.has(*c)))
    }

    /// Whether it matches all that `asked` matches. Sound; a `no` may be too strict.
    pub(super) fn covers(&self, asked: &Self) -> bool {
        fits(&self.0, &asked.0, is_run, |token, asked| match (token, asked) {
            (Token::One(wider), Token::One(asked)) => asked.within(wider),
            _ => false,
        })
    }

    /// The name, where no other matches.
    fn literal(&self) -> Option<String> {
        let one = |token: &Token| match token {
            Token::One(Chars(ranges)) => match ranges.as_slice() {
                [(from, to)] if from == to => char::from_u32(*from),
                _ => None,
            },
            Token::Run => None,
        };
        self.0.iter().map(one).collect()
    }
}

fn is_run(token: &Token) -> bool {
    matches!(token, Token::Run)
}

/// The rest of a class, its `[` read.
fn class(rest: &mut std::str::Chars<'_>) -> Result<Chars, &'static str> {
    const OPEN: &str = "close the class: `[a-z]`";
    let mut members: Vec<char> = Vec::new();
    let mut ranges = Vec::new();
    let mut negated = false;
    let mut next = rest.next();
    if matches!(next, Some('!' | '^')) {
        (negated, next) = (true, rest.next());
    }
    loop {
        let c = next.ok_or(OPEN)?;
        match c {
            ']' if !members.is_empty() || !ranges.is_empty() => break,
            '-' if members.last().is_some() && !rest.as_str().starts_with(']') => {
                let from = members.pop().ok_or(OPEN)?;
                let to = rest.next().ok_or(OPEN)?;
                if to < from {
                    return Err("write the ends of a range in order: `[a-z]`");
                }
                ranges.push((u32::from(from), u32::from(to)));
            }
            c if c.is_control() => return Err("leave out control characters"),
            c => members.push(c),
        }
        next = rest.next();
    }
    ranges.extend(members.into_iter().map(|c| (u32::from(c), u32::from(c))));
    // The pattern was split at its slashes, so only a range can have one within.
    if !negated && ranges.iter().any(|(from, to)| (*from..=*to).contains(&SLASH)) {
        return Err("leave the slash out of the range: a class is of one name");
    }
    Ok(Chars::class(ranges, negated))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Name(Name),
    /// `**`: any number of names, or none.
    Across,
}

/// A glob of absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Part>);

impl Glob {
    /// Reads a glob; otherwise what to change.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let path = text.strip_prefix('/').ok_or("begin with a slash: paths are absolute")?;
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" if path.is_empty() => return Err("name a file below `/`: `/data/*`"),
                "" => return Err("leave out the empty name: no `//`, and no slash at the end"),
                "." | ".." => return Err("leave out `.` and `..`: name the folder itself"),
                "**" if matches!(parts.last(), Some(Part::Across)) => {
                    return Err("write `**` once: it stands for any number of folders");
                }
                "**" => parts.push(Part::Across),
                name => parts.push(Part::Name(Name::parse(name)?)),
            }
        }
        if parts.len() > limits::GLOB_NAMES_MAX {
            return Err("name fewer folders in one glob");
        }
        if matches!(parts.last(), Some(Part::Across)) {
            // What is below a folder, and not the folder.
            parts.push(Part::Name(Name(vec![Token::Run])));
        }
        Ok(Self(parts))
    }

    /// Whether it matches `path`, which is absolute and has no `.`, `..` or empty name in it.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let names: Vec<&str> = path.split('/').collect();
        if names.iter().any(|name| matches!(*name, "" | "." | "..") || name.contains('\0')) {
            return false;
        }
        fits(&self.0, &names, is_across, |part, name| match part {
            Part::Name(pattern) => pattern.matches(name),
            Part::Across => false,
        })
    }

    /// Whether it matches all that `asked` matches. Sound; a `no` may be too strict.
    pub fn covers(&self, asked: &Self) -> bool {
        fits(&self.0, &asked.0, is_across, |part, asked| match (part, asked) {
            (Part::Name(wider), Part::Name(asked)) => wider.covers(asked),
            _ => false,
        })
    }

    /// The deepest folder that everything which it matches is below of, without a slash at its end;
    /// empty for `/`.
    pub fn folder(&self) -> String {
        let names = self.0.iter().take(self.0.len().saturating_sub(1));
        let literal = names.map_while(|part| match part {
            Part::Name(name) => name.literal(),
            Part::Across => None,
        });
        literal.flat_map(|name| ["/".to_owned(), name]).collect()
    }
}

fn is_across(part: &Part) -> bool {
    matches!(part, Part::Across)
}
