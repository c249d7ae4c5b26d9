//! What a condition implies about the rows that it can match, so that a store
//! need not look at all of them.
//!
//! An answer may name rows that do not match, but never leaves out one that
//! does; the condition is still evaluated over whatever is found.

use super::ast::Expr;
use super::row::{Attribute, Path};
use super::value::{Comparison, Literal};

/// The only values of `attribute` that a matching row can have, sorted and each
/// once; `None` when the condition does not restrict it.
pub(super) fn only_values(condition: &Expr<Path>, attribute: Attribute) -> Option<Vec<&str>> {
    match condition {
        Expr::Compare(Comparison::Equal, operands) => match &**operands {
            [id, Expr::Literal(literal)] | [Expr::Literal(literal), id] if is_attribute(id, attribute) => {
                Some(match literal {
                    Literal::Text(text) => vec![text],
                    // An id is a string and equals nothing else.
                    _ => Vec::new(),
                })
            }
            _ => None,
        },
        Expr::In {
            operand,
            set,
            negated: false,
        } if is_attribute(operand, attribute) => Some(set.texts().collect()),
        Expr::And(operands) => operands
            .iter()
            .filter_map(|operand| only_values(operand, attribute))
            .min_by_key(Vec::len),
        Expr::Or(operands) => {
            let each: Option<Vec<Vec<&str>>> = operands
                .iter()
                .map(|operand| only_values(operand, attribute))
                .collect();
            let mut ids = each?.concat();
            ids.sort_unstable();
            ids.dedup();
            Some(ids)
        }
        _ => None,
    }
}

fn is_attribute(expr: &Expr<Path>, attribute: Attribute) -> bool {
    matches!(expr, Expr::Path(path) if path.attribute() == attribute && path.keys().is_empty())
}
