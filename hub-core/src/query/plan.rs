//! What a condition implies about the rows that it can match, so that a store
//! need not look at all of them.
//!
//! An answer may name rows that do not match, but never leaves out one that
//! does; the condition is still evaluated over whatever is found.

use super::ast::Expr;
use super::row::{Attribute, Path};
use super::value::{Comparison, Literal};

/// The only devices that can match, sorted and each once; `None` when the
/// condition does not restrict the id.
pub(super) fn device_ids(condition: &Expr<Path>) -> Option<Vec<&str>> {
    match condition {
        Expr::Compare(Comparison::Equal, operands) => match &**operands {
            [id, Expr::Literal(literal)] | [Expr::Literal(literal), id] if is_device_id(id) => {
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
        } if is_device_id(operand) => Some(set.texts().collect()),
        Expr::And(operands) => operands.iter().filter_map(device_ids).min_by_key(|ids| ids.len()),
        Expr::Or(operands) => {
            let each: Option<Vec<Vec<&str>>> = operands.iter().map(device_ids).collect();
            let mut ids = each?.concat();
            ids.sort_unstable();
            ids.dedup();
            Some(ids)
        }
        _ => None,
    }
}

fn is_device_id(expr: &Expr<Path>) -> bool {
    matches!(expr, Expr::Path(path) if path.attribute() == Attribute::DeviceId && path.keys().is_empty())
}
