//! What a condition implies about the rows that it can match, so that a store
//! need not look at all of them.
//!
//! An answer may name rows that do not match, but never leaves out one that
//! does; the condition is still evaluated over whatever is found.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::ast::Expr;
use super::row::{Attribute, Path};
use super::value::{Comparison, Literal, Value};

/// What stands for a value in an index: equal values have equal keys.
///
/// A hash, so that an index has entries of one small size. Different values may
/// share a key, which costs a look at a row that does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueKey(u64);

impl Value<'_> {
    /// The key of the value; `None` for what equals nothing: undefined, objects
    /// and arrays.
    #[must_use]
    pub fn key(&self) -> Option<ValueKey> {
        let mut hasher = DefaultHasher::new();
        match self {
            Self::Undefined | Self::Array(_) | Self::Object(_) => return None,
            Self::Null => 0_u8.hash(&mut hasher),
            Self::Bool(b) => (1_u8, b).hash(&mut hasher),
            // Adding zero makes the two zeros, which are equal, the same.
            Self::Number(n) => (2_u8, (n + 0.0).to_bits()).hash(&mut hasher),
            Self::Str(text) => (3_u8, &**text).hash(&mut hasher),
        }
        Some(ValueKey(hasher.finish()))
    }
}

/// What a condition requires of one path: in every matching row its value has
/// one of some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equality<'q> {
    /// Where the value is.
    pub path: &'q Path,
    /// Keys of the values that it may have, sorted and each once; none at all
    /// when no row can match.
    pub keys: Vec<ValueKey>,
}

impl<'q> Equality<'q> {
    fn new(path: &'q Path, mut keys: Vec<ValueKey>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        Self { path, keys }
    }
}

/// The equalities that hold in every row for which `condition` is true; there
/// may be several for one path.
pub(super) fn equalities(condition: &Expr<Path>) -> Vec<Equality<'_>> {
    match condition {
        Expr::Compare(Comparison::Equal, operands) => match &**operands {
            [Expr::Path(path), Expr::Literal(literal)] | [Expr::Literal(literal), Expr::Path(path)] => {
                vec![Equality::new(path, literal.value().key().into_iter().collect())]
            }
            _ => Vec::new(),
        },
        Expr::In {
            operand,
            set,
            negated: false,
        } => match &**operand {
            Expr::Path(path) => vec![Equality::new(
                path,
                set.values().filter_map(|value| value.key()).collect(),
            )],
            _ => Vec::new(),
        },
        // A path alone is a condition that the boolean true fulfils.
        Expr::Path(path) => vec![Equality::new(path, Value::Bool(true).key().into_iter().collect())],
        Expr::And(operands) => operands.iter().flat_map(equalities).collect(),
        Expr::Or(operands) => {
            let mut operands = operands.iter().map(equalities);
            let first = operands.next().unwrap_or_default();
            operands.fold(first, |known, other| either(known, &other))
        }
        _ => Vec::new(),
    }
}

/// What is known when one or the other side holds: only of paths that both know
/// something about.
fn either<'q>(known: Vec<Equality<'q>>, other: &[Equality<'q>]) -> Vec<Equality<'q>> {
    known
        .into_iter()
        .filter_map(|Equality { path, mut keys }| {
            let same = other.iter().find(|equality| equality.path == path)?;
            keys.extend(&same.keys);
            Some(Equality::new(path, keys))
        })
        .collect()
}

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
