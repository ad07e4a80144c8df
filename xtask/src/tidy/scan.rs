//! A scan of Rust source that knows just enough of its grammar: comments, literals and braces.

/// Source with its comments and literals blanked out, line by line where it was.
pub(super) struct Source {
    code: String,
}

/// A function's place and length, signature to closing brace.
#[derive(Debug, PartialEq)]
pub(super) struct Function {
    pub(super) first_line: usize,
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn new(text: &str) -> Self {
        Self { code: blanked(text) }
    }

    /// Functions with a body, outside the file's test modules.
    pub(super) fn functions(&self) -> Vec<Function> {
        let tests = self.test_ranges();
        let starts = self.words("fn").filter(|at| !tests.iter().any(|(first, last)| (first..=last).contains(&at)));
        starts.filter_map(|at| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<Function> {
        let named = self.code[at + 2..].trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_');
        let end = if named { self.body_end(at)? } else { return None };
        let first_line = self.line(at);
        Some(Function { first_line, lines: self.line(end) - first_line + 1 })
    }

    /// Lines of the test modules inside this file.
    pub(super) fn test_lines(&self) -> usize {
        self.test_ranges().iter().map(|&(first, last)| self.line(last) - self.line(first) + 1).sum()
    }

    /// Calls of `unwrap` and `expect` outside the test modules.
    pub(super) fn unwraps(&self) -> usize {
        let tests = self.test_ranges();
        let calls = [".unwrap()", ".expect("].iter().flat_map(|call| self.code.match_indices(call));
        calls.filter(|(at, _)| !tests.iter().any(|(first, last)| (first..=last).contains(&at))).count()
    }

    /// From the attribute to the closing brace of each `#[cfg(test)] mod … { … }`, as offsets.
    fn test_ranges(&self) -> Vec<(usize, usize)> {
        let starts = self.code.match_indices("#[cfg(test)]").map(|(at, _)| at);
        starts.filter_map(|at| Some((at, self.body_end(at + "#[cfg(test)]".len())?))).collect()
    }

    /// The brace that closes the first block after `from`, unless a semicolon comes before it opens.
    fn body_end(&self, from: usize) -> Option<usize> {
        let (mut braces, mut brackets) = (0usize, 0usize);
        for (at, c) in self.code[from..].char_indices() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                '{' => braces += 1,
                '}' if braces <= 1 => return (braces == 1).then_some(from + at),
                '}' => braces -= 1,
                ';' if braces == 0 && brackets == 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// Where a word stands by itself.
    fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        self.code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
            let (before, after) = (self.code[..at].chars().next_back(), self.code[at + word.len()..].chars().next());
            !part_of_name(before) && !part_of_name(after)
        })
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

/// The text with comments and literals replaced by spaces; line ends stay.
fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal(rest, code.chars().next_back());
        let taken = length.unwrap_or(first.len_utf8());
        let blank = rest[..taken].chars().map(|c| if c == '\n' || length.is_none() { c } else { ' ' });
        code.extend(blank);
        rest = &rest[taken..];
    }
    code
}

/// Bytes of the comment or literal at the start of `text`, if there is one.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    match text.as_bytes() {
        [b'/', b'/', ..] => Some(text.find('\n').unwrap_or(text.len())),
        [b'/', b'*', ..] => Some(block_comment(text)),
        [b'"', ..] => Some(quoted(text, '"')),
        [b'r', b'"' | b'#', ..] if !in_name => raw_string(text),
        [b'b', b'r', b'"' | b'#', ..] if !in_name => raw_string(&text[1..]).map(|length| length + 1),
        [b'\'', ..] => is_character(text).then(|| quoted(text, '\'')),
        _ => None,
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let step = match text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth += 1, 2).1,
            [b'*', b'/', ..] => (depth -= 1, 2).1,
            _ => 1,
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// `r"…"` with any number of `#`; a raw identifier such as `r#type` is none.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|&byte| byte == b'#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&close).map_or(body.len(), |at| at + close.len());
    Some(1 + hashes + 1 + length)
}

/// A character literal rather than a lifetime: a backslash, or a closing quote after one character.
fn is_character(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    after.next() == Some('\\') || after.next() == Some('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(text: &str) -> Vec<(usize, usize)> {
        Source::new(text).functions().iter().map(|function| (function.first_line, function.lines)).collect()
    }

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        assert_eq!(lengths("fn a() {}\n\nfn b(\n    x: [u8; 3],\n) -> u8 {\n    { 1 }\n}\n"), [(1, 1), (3, 5)]);
        assert_eq!(lengths("trait T {\n    fn a();\n    fn b() {\n    }\n}\n"), [(3, 2)]);
        assert_eq!(lengths("type F = fn(u8) -> u8;\nlet fn_like = 1;\n"), []);
    }

    #[test]
    fn braces_in_comments_and_literals_do_not_count() {
        let text = "fn a() {\n    // }\n    /* } /* } */ */\n    let _ = (\"}\\\"\", r#\"}\"}\"#, '}', '\\'', b\"}\");\n    let r#type: &'static str = x;\n}\n";
        assert_eq!(lengths(text), [(1, 6)]);
    }

    #[test]
    fn test_modules_are_left_out() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn t() {\n        x.unwrap();\n    }\n}\nfn z() { y.unwrap() }\n";
        let source = Source::new(text);
        assert_eq!(lengths(text), [(1, 1), (8, 1)]);
        assert_eq!((source.test_lines(), source.unwraps()), (6, 1));
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_has_no_lines_here() {
        let source = Source::new("fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {\n}\n");
        assert_eq!(source.test_lines(), 0);
        assert_eq!(source.functions().len(), 2);
    }
}
