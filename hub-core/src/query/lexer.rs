//! Cuts a query text into tokens: the first stage.
//!
//! Knows spelling only. Which words are keywords is for the parser to say,
//! since most of them are legal in some places as names.

use super::Dialect;
use super::error::Fault;

/// A token and the bytes of the text that it covers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind<'t>,
    pub(super) at: usize,
    pub(super) end: usize,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind<'t> {
    /// A keyword or a name.
    Word(&'t str),
    /// A path segment written `[[like this]]`, without the brackets.
    Quoted(&'t str),
    Number(f64),
    /// A string literal, its escapes resolved.
    Text(String),
    Comma,
    Dot,
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Semicolon,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `||`, as are all that follow: in the routing dialect only.
    Concatenate,
    /// `??`
    Coalesce,
    LeftBrace,
    RightBrace,
    /// Follows the last token of every text.
    End,
}

/// Cuts `text` into tokens; the last one is always [`Kind::End`].
pub(super) fn tokens(text: &str, dialect: Dialect) -> Result<Vec<Token<'_>>, Fault> {
    let mut lexer = Lexer {
        text,
        routing: dialect == Dialect::Routing,
        at: 0,
        after_dot: false,
        hyphens: false,
    };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token()?;
        let last = token.kind == Kind::End;
        tokens.push(token);
        if last {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    /// Reads a condition of message routing.
    routing: bool,
    at: usize,
    /// The previous token was a dot, so that a path continues.
    after_dot: bool,
    /// The current path has passed `tags` or `properties`: its segments are
    /// keys that people chose, and those may contain hyphens.
    hyphens: bool,
}

impl<'t> Lexer<'t> {
    fn token(&mut self) -> Result<Token<'t>, Fault> {
        self.skip(char::is_whitespace);
        while self.routing && self.rest().starts_with("/*") {
            let Some((comment, _)) = self.rest()[2..].split_once("*/") else {
                return Err(Fault::new(self.at, "Unterminated comment: expected '*/'"));
            };
            self.at += comment.len() + 4;
            self.skip(char::is_whitespace);
        }
        let at = self.at;
        let kind = self.kind()?;
        self.after_dot = kind == Kind::Dot;
        Ok(Token {
            kind,
            at,
            end: self.at,
        })
    }

    fn kind(&mut self) -> Result<Kind<'t>, Fault> {
        let start = self.at;
        let Some(first) = self.peek() else {
            return Ok(Kind::End);
        };
        if first.is_ascii_digit() && !self.after_dot {
            return self.number();
        }
        if in_word(first) {
            return Ok(self.word());
        }
        self.at += first.len_utf8();
        Ok(match first {
            '\'' | '"' => Kind::Text(self.text_literal(start, first)?),
            '|' if self.routing && self.eat('|') => Kind::Concatenate,
            '?' if self.routing && self.eat('?') => Kind::Coalesce,
            '{' if self.routing => Kind::LeftBrace,
            '}' if self.routing => Kind::RightBrace,
            '[' if !self.routing && self.eat('[') => self.quoted(start)?,
            '[' => Kind::LeftBracket,
            ']' => Kind::RightBracket,
            '(' => Kind::LeftParen,
            ')' => Kind::RightParen,
            ',' => Kind::Comma,
            '.' => Kind::Dot,
            ';' => Kind::Semicolon,
            '+' => Kind::Plus,
            '-' => Kind::Minus,
            '*' => Kind::Star,
            '/' => Kind::Slash,
            '%' => Kind::Percent,
            '=' => Kind::Equal,
            '!' if self.eat('=') => Kind::NotEqual,
            '<' if self.eat('=') => Kind::LessOrEqual,
            '<' if self.eat('>') => Kind::NotEqual,
            '<' => Kind::Less,
            '>' if self.eat('=') => Kind::GreaterOrEqual,
            '>' => Kind::Greater,
            other => return Err(Fault::unexpected(start, other.encode_utf8(&mut [0; 4]), None)),
        })
    }

    /// A keyword, function name or path segment.
    ///
    /// `-` belongs to a key only between two characters of it, as in
    /// `tags.my-tag`; anywhere else it is the operator. The service's own
    /// `$version` and `$metadata` never contain one. In message routing every
    /// name is one that people chose, or has hyphens of the service's own.
    fn word(&mut self) -> Kind<'t> {
        let start = self.at;
        self.begin_segment();
        let hyphens = self.routing || self.hyphens && !self.rest().starts_with('$');
        loop {
            self.skip(in_word);
            let mut following = self.rest().chars();
            if !hyphens || following.next() != Some('-') || !following.next().is_some_and(in_word) {
                break;
            }
            self.at += 1;
        }
        let word = &self.text[start..self.at];
        self.end_segment(word);
        Kind::Word(word)
    }

    /// The rest of a `[[quoted segment]]`, its opening brackets consumed.
    fn quoted(&mut self, start: usize) -> Result<Kind<'t>, Fault> {
        self.begin_segment();
        let rest = self.rest();
        let Some(length) = rest.find("]]") else {
            return Err(Fault::new(start, "Unterminated segment: expected ']]'"));
        };
        if length == 0 {
            return Err(Fault::unexpected(
                start,
                "[[]]",
                Some("expected a name in the brackets"),
            ));
        }
        self.at += length + 2;
        self.end_segment(&rest[..length]);
        Ok(Kind::Quoted(&rest[..length]))
    }

    fn begin_segment(&mut self) {
        self.hyphens &= self.after_dot;
    }

    fn end_segment(&mut self, segment: &str) {
        self.hyphens |= ["tags", "properties"]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(segment));
    }

    /// A decimal or hexadecimal number without its sign.
    fn number(&mut self) -> Result<Kind<'t>, Fault> {
        let start = self.at;
        let rest = self.rest();
        let value = if rest.starts_with("0x") || rest.starts_with("0X") {
            self.at += 2;
            self.skip(|c| c.is_ascii_hexdigit());
            // Twice as many bits as a double's mantissa needs.
            u128::from_str_radix(&self.text[start + 2..self.at], 16)
                .ok()
                .map(|n| n as f64)
        } else {
            self.skip(|c| c.is_ascii_digit());
            self.fraction();
            self.exponent();
            self.text[start..self.at].parse().ok()
        };
        let whole = !self.peek().is_some_and(in_word);
        match value {
            Some(value) if whole && f64::is_finite(value) => Ok(Kind::Number(value)),
            _ => {
                self.skip(in_word);
                let hint = if whole {
                    "the number is out of range"
                } else {
                    "malformed number"
                };
                Err(Fault::unexpected(start, &self.text[start..self.at], Some(hint)))
            }
        }
    }

    fn fraction(&mut self) {
        let mut following = self.rest().chars();
        if following.next() == Some('.') && following.next().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            self.skip(|c| c.is_ascii_digit());
        }
    }

    fn exponent(&mut self) {
        let rest = self.rest();
        let Some(power) = rest.strip_prefix(['e', 'E']) else {
            return;
        };
        let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
        if digits.starts_with(|c: char| c.is_ascii_digit()) {
            self.at += rest.len() - digits.len();
            self.skip(|c| c.is_ascii_digit());
        }
    }

    /// The rest of a string literal, its opening quote consumed.
    ///
    /// The quote itself is written with a backslash or, as some callers do,
    /// twice.
    fn text_literal(&mut self, start: usize, quote: char) -> Result<String, Fault> {
        let mut text = String::new();
        loop {
            let at = self.at;
            let Some(c) = self.bump() else {
                return Err(Fault::new(
                    start,
                    format!("Unterminated string: expected {quote}"),
                ));
            };
            match c {
                '\\' => text.push(self.escape(at)?),
                _ if c == quote && !self.eat(quote) => return Ok(text),
                _ => text.push(c),
            }
        }
    }

    /// What an escape sequence stands for, its backslash consumed.
    fn escape(&mut self, start: usize) -> Result<char, Fault> {
        let decoded = match self.bump() {
            Some(c @ ('\'' | '"' | '\\')) => Some(c),
            Some('u') => self.unicode_escape(),
            _ => None,
        };
        decoded.ok_or_else(|| {
            Fault::unexpected(
                start,
                &self.text[start..self.at],
                Some("unknown escape sequence in a string"),
            )
        })
    }

    /// The digits of `\uXXXX`; two of them in a row may be a surrogate pair.
    fn unicode_escape(&mut self) -> Option<char> {
        let first = self.code_unit()?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first.into());
        }
        if !(self.eat('\\') && self.eat('u')) {
            return None;
        }
        let second = self.code_unit()?;
        char::decode_utf16([first, second]).next()?.ok()
    }

    fn code_unit(&mut self) -> Option<u16> {
        let digits = self.rest().get(..4)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u16::from_str_radix(digits, 16).ok()
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !skipped(c)).unwrap_or(rest.len());
    }
}

/// Whether `c` may stand in an unquoted name.
fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '_' | '$')
        || !(c.is_ascii() || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind<'_>> {
        let mut kinds: Vec<_> = tokens(text, Dialect::Service)
            .unwrap()
            .into_iter()
            .map(|t| t.kind)
            .collect();
        assert_eq!(kinds.pop(), Some(Kind::End));
        kinds
    }

    fn refusal(text: &str) -> (usize, String) {
        let error = tokens(text, Dialect::Service).unwrap_err().locate(text);
        (error.column, error.message)
    }

    #[test]
    fn numbers() {
        for (text, value) in [
            ("0", 0.0),
            ("42", 42.0),
            ("2.50", 2.5),
            ("1e3", 1000.0),
            ("1.5E-2", 0.015),
            ("2e+2", 200.0),
            ("0x1F", 31.0),
            ("0Xff", 255.0),
        ] {
            assert_eq!(kinds(text), [Kind::Number(value)], "{text}");
        }
        assert_eq!(kinds("1-2"), [Kind::Number(1.0), Kind::Minus, Kind::Number(2.0)]);
        for text in ["12abc", "0x", "0xg", "1e", "1e+", "1e999", "1_000"] {
            assert!(tokens(text, Dialect::Service).is_err(), "{text}");
        }
        let digits = format!("0x{}", "f".repeat(40));
        assert_eq!(
            refusal(&digits).1.split(": ").last(),
            Some("the number is out of range")
        );
    }

    #[test]
    fn strings() {
        for (text, value) in [
            ("''", ""),
            ("\"\"", ""),
            ("'it''s'", "it's"),
            ("''''", "'"),
            (r#""say ""hi"" ""#, "say \"hi\" "),
            (r"'it\'s'", "it's"),
            (r#"'a\"b\\c'"#, "a\"b\\c"),
            (r"'\u00e9\u0041'", "éA"),
            (r"'\uD83D\uDE00'", "😀"),
            ("'two\nlines'", "two\nlines"),
            ("'\"'", "\""),
        ] {
            assert_eq!(kinds(text), [Kind::Text(value.into())], "{text}");
        }
        assert_eq!(refusal("x 'abc"), (3, "Unterminated string: expected '".into()));
        assert_eq!(refusal("'''").1, "Unterminated string: expected '");
        for text in [
            r"'\x'",
            r"'\u12'",
            r"'\uD83D'",
            r"'\uDE00'",
            r"'\uD83D\u0041'",
            r"'\u+123'",
            r"'\",
        ] {
            let (column, message) = refusal(text);
            assert_eq!(column, 2, "{text}");
            assert!(message.contains("unknown escape"), "{message}");
        }
    }

    #[test]
    fn hyphens_belong_to_keys_but_not_to_attributes() {
        use Kind::{Dot, Minus, Number, Quoted, Word};
        assert_eq!(kinds("tags.my-tag"), [Word("tags"), Dot, Word("my-tag")]);
        assert_eq!(kinds("Tags.a-1-b"), [Word("Tags"), Dot, Word("a-1-b")]);
        assert_eq!(
            kinds("c.properties.desired.a.b-c"),
            [
                Word("c"),
                Dot,
                Word("properties"),
                Dot,
                Word("desired"),
                Dot,
                Word("a"),
                Dot,
                Word("b-c")
            ]
        );
        assert_eq!(kinds("tags.[[x y]].a-b")[3..], [Dot, Word("a-b")]);
        assert_eq!(
            kinds("tags.a - 1"),
            [Word("tags"), Dot, Word("a"), Minus, Number(1.0)]
        );
        assert_eq!(kinds("tags.a- 1")[3..], [Minus, Number(1.0)]);
        assert_eq!(kinds("tags.a--b")[3..], [Minus, Minus, Word("b")]);
        assert_eq!(kinds("tags.$version-1")[3..], [Minus, Number(1.0)]);
        assert_eq!(kinds("version-1"), [Word("version"), Minus, Number(1.0)]);
        assert_eq!(kinds("tags.a=x-y")[4..], [Word("x"), Minus, Word("y")]);
        assert_eq!(kinds("[[my-config]]"), [Quoted("my-config")]);
    }

    #[test]
    fn keys_may_start_with_digits_and_have_any_letters() {
        use Kind::{Dot, Word};
        assert_eq!(kinds("tags.4g"), [Word("tags"), Dot, Word("4g")]);
        assert_eq!(kinds("tags.5"), [Word("tags"), Dot, Word("5")]);
        assert_eq!(kinds("größe"), [Word("größe")]);
    }

    #[test]
    fn symbols() {
        use Kind::*;
        assert_eq!(
            kinds("<= < <> > >= = != ( ) [ ] , ; + - * / %"),
            [
                LessOrEqual,
                Less,
                NotEqual,
                Greater,
                GreaterOrEqual,
                Equal,
                NotEqual,
                LeftParen,
                RightParen,
                LeftBracket,
                RightBracket,
                Comma,
                Semicolon,
                Plus,
                Minus,
                Star,
                Slash,
                Percent
            ]
        );
        assert_eq!(refusal("a # b"), (3, "Unexpected character at input '#'".into()));
        assert_eq!(refusal("a ! b").0, 3);
        assert_eq!(refusal("é || b"), (3, "Unexpected character at input '|'".into()));
        assert_eq!(refusal(" [[a]").1, "Unterminated segment: expected ']]'");
        assert_eq!(refusal("[[]]").0, 1);
        assert_eq!(refusal("a\u{1}").0, 2);
    }
}
