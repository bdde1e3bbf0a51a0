//! Sizes of Rust files, functions and lines, and the sentence each file begins with.

use super::{Finding, Text};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;

/// `code` is the text's body with comments and literals masked.
pub(super) fn check(text: &Text, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.body.lines().count();
    if lines > FILE_LINES_MAX {
        let message = format!("{lines} lines, at most {FILE_LINES_MAX}: split the module");
        findings.push(Finding::file(&text.path, message));
    }
    if !text.body.starts_with("//! ") {
        findings.push(Finding::line(&text.path, 1, "begin the file with a `//!` sentence"));
    }
    for (line, content) in (1..).zip(text.body.lines()) {
        let chars = content.chars().count();
        if chars > LINE_CHARS_MAX {
            let message = format!("{chars} characters in a line, at most {LINE_CHARS_MAX}");
            findings.push(Finding::line(&text.path, line, message));
        }
    }
    let in_tests = text.path.components().any(|part| part.as_os_str() == "tests");
    if !in_tests {
        findings.extend(long_functions(text, code));
    }
    findings
}

fn long_functions(text: &Text, code: &str) -> Vec<Finding> {
    let long = functions(code).into_iter().filter(|found| found.lines > FUNCTION_LINES_MAX);
    long.map(|Function { name, line, lines }| {
        let message = format!("`{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}");
        Finding::line(&text.path, line, message)
    })
    .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    /// From the line of `fn` to that of the closing brace.
    lines: usize,
}

/// Every function with a body, nested ones too.
fn functions(code: &str) -> Vec<Function> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let rest = tokens.get(index + 1..).unwrap_or_default();
        let Some(name) = rest.first().filter(|name| token.text == "fn" && name.is_word()) else {
            continue;
        };
        if let Some(end) = end_of_body(rest) {
            let lines = end - token.line + 1;
            found.push(Function { name: name.text.to_owned(), line: token.line, lines });
        }
    }
    found
}

/// The line of the brace that closes the body; nothing for a declaration without one.
fn end_of_body(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0_i32;
    let mut in_body = false;
    for token in tokens {
        match token.text {
            ";" if depth == 0 => return None,
            "{" if depth == 0 => {
                in_body = true;
                depth += 1;
            }
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if in_body && depth == 0 {
            return Some(token.line);
        }
    }
    None
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(is_word_char)
    }
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words, and every other character on its own.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (line, content) in (1..).zip(code.lines()) {
        let mut rest = content.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
            let (text, after) = rest.split_at(word.max(first.len_utf8()));
            tokens.push(Token { text, line });
            rest = after.trim_start();
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Text, mask::mask};
    use super::{check, functions};

    fn sizes(source: &str) -> Vec<(String, usize, usize)> {
        let found = functions(&mask(source)).into_iter();
        found.map(|function| (function.name, function.line, function.lines)).collect()
    }

    #[test]
    fn measures_functions() {
        assert_eq!(sizes("fn f() {\n}\n"), [("f".to_owned(), 1, 2)]);
        assert_eq!(sizes("trait T {\n    fn f(x: [u8; 2]);\n}"), []);
        assert_eq!(sizes("type F = fn(u8) -> u8;"), []);
        assert_eq!(
            sizes("fn a<'a>(x: [u8; 2])\nwhere\n    T: U,\n{\n    fn b() {}\n    '}';\n}"),
            [("a".to_owned(), 1, 7), ("b".to_owned(), 5, 1)]
        );
    }

    fn messages(path: &str, body: String) -> Vec<String> {
        let text = Text { path: PathBuf::from(path), body };
        let code = mask(&text.body);
        check(&text, &code).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn refuses_what_is_too_long() {
        let function =
            |lines: usize| format!("//! F.\nfn f() {{\n{}}}\n", "x;\n".repeat(lines - 2));
        assert!(messages("src/a.rs", function(70)).is_empty());
        assert_eq!(messages("src/a.rs", function(71)), ["`f` has 71 lines, at most 70"]);
        assert!(messages("tests/a.rs", function(71)).is_empty());
        let line = |chars: usize| format!("//! {}", "é".repeat(chars - 4));
        assert!(messages("src/a.rs", line(100)).is_empty());
        assert_eq!(messages("src/a.rs", line(101)), ["101 characters in a line, at most 100"]);
        let file = |lines: usize| format!("//! F.\n{}", "x\n".repeat(lines - 1));
        assert!(messages("tests/a.rs", file(600)).is_empty());
        assert_eq!(messages("tests/a.rs", file(601)).len(), 1);
        assert_eq!(messages("a.rs", "fn f() {}".to_owned()).len(), 1);
    }
}
