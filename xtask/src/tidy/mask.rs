//! Blanks out comments and literals of Rust source, so that rules can look at code alone.

/// The source with every comment and every string or character literal replaced by spaces.
///
/// Line breaks are kept, so line numbers still hold.
pub(crate) fn mask(source: &str) -> String {
    let mut masker = Masker { chars: source.chars().collect(), at: 0, out: String::new() };
    while let Some(current) = masker.peek(0) {
        masker.step(current);
    }
    masker.out
}

struct Masker {
    chars: Vec<char>,
    at: usize,
    out: String,
}

impl Masker {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn step(&mut self, current: char) {
        match (current, self.peek(1)) {
            ('/', Some('/')) => self.blank_line(),
            ('/', Some('*')) => self.blank_block(),
            ('"', _) => self.blank_string(),
            ('\'', _) => self.quote(),
            ('r' | 'b' | 'c', _) if !self.follows_word() => self.prefix(),
            _ => self.keep(),
        }
    }

    fn keep(&mut self) {
        self.out.extend(self.peek(0));
        self.at += 1;
    }

    fn blank(&mut self, count: usize) {
        for _ in 0..count {
            let Some(hidden) = self.peek(0) else { return };
            self.out.push(if hidden == '\n' { '\n' } else { ' ' });
            self.at += 1;
        }
    }

    fn follows_word(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.chars.get(at));
        before.is_some_and(|&c| c.is_alphanumeric() || c == '_')
    }

    fn blank_line(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.blank(1);
        }
    }

    fn blank_block(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                (None, _) => return,
                _ => {
                    self.blank(1);
                    continue;
                }
            }
            self.blank(2);
            if depth == 0 {
                return;
            }
        }
    }

    fn blank_string(&mut self) {
        self.blank(1);
        while let Some(c) = self.peek(0) {
            self.blank(if c == '\\' { 2 } else { 1 });
            if c == '"' {
                return;
            }
        }
    }

    /// A quote opens a character literal, or a lifetime when no quote closes it.
    fn quote(&mut self) {
        match (self.peek(1), self.peek(2)) {
            (Some('\\'), _) => {
                self.blank(3);
                while self.peek(0).is_some_and(|c| c != '\'') {
                    self.blank(1);
                }
                self.blank(1);
            }
            (Some(_), Some('\'')) => self.blank(3),
            _ => self.keep(),
        }
    }

    /// `r`, `b` or `c` may begin a literal: `r"`, `br#"`, `b'`; else it is part of a name.
    fn prefix(&mut self) {
        let letters = (0..2).take_while(|&n| matches!(self.peek(n), Some('r' | 'b' | 'c'))).count();
        let raw = (0..letters).any(|n| self.peek(n) == Some('r'));
        let hashes = (letters..).take_while(|&n| self.peek(n) == Some('#')).count();
        match self.peek(letters + hashes) {
            Some('"') if raw => self.blank_raw(letters + hashes, hashes),
            Some('"') if hashes == 0 => {
                self.blank(letters);
                self.blank_string();
            }
            _ => self.keep(),
        }
    }

    fn blank_raw(&mut self, before_quote: usize, hashes: usize) {
        self.blank(before_quote + 1);
        while let Some(c) = self.peek(0) {
            let closes = c == '"' && (1..=hashes).all(|n| self.peek(n) == Some('#'));
            self.blank(if closes { hashes + 1 } else { 1 });
            if closes {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mask;

    fn check(source: &str, kept: &[&str], hidden: &[&str]) {
        let masked = mask(source);
        assert_eq!(masked.lines().count(), source.lines().count(), "{masked}");
        for word in kept {
            assert!(masked.contains(word), "`{word}` is lost in: {masked}");
        }
        for word in hidden {
            assert!(!masked.contains(word), "`{word}` is left in: {masked}");
        }
    }

    #[test]
    fn hides_comments_and_literals_only() {
        check("a // gone {\nb", &["a", "b"], &["gone", "{"]);
        check("a /* x /* y */ z */ b", &["a", "b"], &["x", "y", "z"]);
        check(r#"f("gone \" { more") + b"#, &["f(", "+ b"], &["gone", "more", "{"]);
        check("f(r#\"gone \" more\"#) + b", &["f(", "+ b"], &["gone", "more"]);
        check("f(br\"gone\\\") + kept", &["kept"], &["gone"]);
        check("f('{', '\\'', '\\u{7d}', b'}') + kept", &["kept"], &["{", "}"]);
        check("fn f<'a>(x: &'a str) { 'b: loop {} }", &["'a", "str", "'b: loop {}"], &[]);
        check("let r#type = bar;", &["r#type", "bar"], &[]);
        check("\"gone\nover lines\" kept", &["kept"], &["gone", "over"]);
    }
}
