//! Why a query text is refused, and where in the text.

use crate::error::{ErrorCode, ServiceError};

/// A query text that cannot be run: wrong syntax, an unknown name, or a
/// feature that the language does not have.
///
/// Displays in the service's wording, which tools show to their users:
/// `SQL query parse failed due to following errors: Line 1:29 Unexpected
/// character at input 'x'`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SQL query parse failed due to following errors: Line {line}:{column} {message}")]
pub struct QueryError {
    /// Line of the text, counted from 1; a line ends at a line feed.
    pub line: usize,
    /// Column in that line, counted in characters from 1.
    pub column: usize,
    /// What is wrong there, in the service's wording.
    pub message: String,
}

/// A refused query is the caller's invalid argument.
impl From<QueryError> for ServiceError {
    fn from(error: QueryError) -> Self {
        Self::new(ErrorCode::ArgumentInvalid, error.to_string())
    }
}

/// A refusal while the text is at hand: the place is still a byte offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    at: usize,
    message: String,
}

impl Fault {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }

    /// Says what the service says when `input` does not belong where it is.
    pub(super) fn unexpected(at: usize, input: &str, hint: Option<&str>) -> Self {
        let mut message = format!("Unexpected character at input '{}'", shorten(input));
        if let Some(hint) = hint {
            message.push_str(": ");
            message.push_str(hint);
        }
        Self { at, message }
    }

    /// Turns the offset into the line and column that people count.
    pub(super) fn locate(self, text: &str) -> QueryError {
        let before = text.get(..self.at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |feed| feed + 1);
        QueryError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: self.message,
        }
    }
}

/// Cuts a piece of the query to a length that suits a message.
pub(super) fn shorten(input: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = input.chars().take(LONGEST).collect();
    if short.len() < input.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let at = |offset, text: &str| {
            let error = Fault::new(offset, "m").locate(text);
            (error.line, error.column)
        };
        assert_eq!(at(0, ""), (1, 1));
        assert_eq!(at(28, "SELECT * FROM devices WHERE x"), (1, 29));
        assert_eq!(at("é ".len(), "é x"), (1, 3));
        assert_eq!(at("a\r\nbc".len(), "a\r\nbcd"), (2, 3));
        assert_eq!(at(3, "abc"), (1, 4));
    }

    #[test]
    fn it_reads_as_the_service_writes_it() {
        let error = Fault::unexpected(28, "x", None).locate("SELECT * FROM devices WHERE x");
        assert_eq!(
            error.to_string(),
            "SQL query parse failed due to following errors: Line 1:29 Unexpected character at input 'x'"
        );
        assert_eq!(ServiceError::from(error).code, ErrorCode::ArgumentInvalid);
        let long = Fault::unexpected(0, &"y".repeat(9000), Some("hint")).locate("y");
        assert_eq!(
            long.message,
            format!("Unexpected character at input '{}…': hint", "y".repeat(64))
        );
    }
}
