//! Types of operands, as far as they show in the text of a routing condition.
//!
//! Properties of a message are strings, always. The service refuses a route
//! whose condition compares one with a number or takes it for a condition:
//! such a text could never be true. What stands in the body or the twin may be
//! of any type, and twin queries have no such rule.

use std::fmt;

use super::ast::{Expr, Name};
use super::functions::Function;
use super::value::Literal;

/// The type of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// Known when the message is.
    Any,
    Null,
    Bool,
    Number,
    Text,
}

impl Type {
    /// Whether an operand of this type can stand where `wanted` is needed.
    pub(super) fn suits(self, wanted: Self) -> bool {
        self == wanted || matches!(self, Self::Any | Self::Null) || matches!(wanted, Self::Any | Self::Null)
    }
}

/// In the words of a refusal.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "a value",
            Self::Null => "null",
            Self::Bool => "a condition",
            Self::Number => "a number",
            Self::Text => "a string",
        })
    }
}

/// The type of an expression. Recursion is as deep as the text nests.
pub(super) fn type_of(expr: &Expr<Name>) -> Type {
    match expr {
        Expr::Literal(literal) => match literal {
            Literal::Undefined => Type::Any,
            Literal::Null => Type::Null,
            Literal::Bool(_) => Type::Bool,
            Literal::Number(_) => Type::Number,
            Literal::Text(_) => Type::Text,
        },
        Expr::Path(name) if name.is_message_json() => Type::Any,
        Expr::Path(_) => Type::Text,
        Expr::Or(_) | Expr::And(_) | Expr::Not(_) | Expr::Compare(..) | Expr::In { .. } => Type::Bool,
        Expr::Arithmetic(..) | Expr::Negate(_) => Type::Number,
        Expr::Call(Function::Coalesce, operands) => operands
            .iter()
            .map(type_of)
            .find(|found| *found != Type::Any)
            .unwrap_or(Type::Any),
        Expr::Call(function, _) => function.result(),
    }
}
