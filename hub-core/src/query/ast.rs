//! The syntax tree of a query.
//!
//! [`Expr`] is generic over what a name is: the parser makes trees whose names
//! are just [`Name`]s, with a place for messages; checking replaces them by
//! [`Path`](super::Path)s of the rows at hand, and only such trees are
//! evaluated.

use super::functions::Function;
use super::value::{Arithmetic, Comparison, Literal, LiteralSet};

/// A whole query, its names not looked up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub(super) top: Option<u64>,
    pub(super) items: Items,
    pub(super) collection: Name,
    pub(super) condition: Option<Expr<Name>>,
    pub(super) group_by: Vec<Name>,
}

/// What follows SELECT.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Items {
    Star,
    List(Vec<Item>),
}

/// One column of the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) column: Column,
    pub(super) alias: Option<Box<str>>,
    /// Byte offset in the text.
    pub(super) at: usize,
}

/// Where a column comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Column {
    Name(Name),
    Count,
    Aggregate(Measure, Name),
}

/// What an aggregate computes from the numbers of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Average,
    Sum,
    Least,
    Greatest,
}

impl Measure {
    pub(super) const ALL: [Self; 4] = [Self::Average, Self::Sum, Self::Least, Self::Greatest];

    /// The function's name; in this spelling also the name of a column without
    /// alias.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Average => "avg",
            Self::Sum => "sum",
            Self::Least => "min",
            Self::Greatest => "max",
        }
    }
}

/// A path as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Name {
    pub(super) segments: Vec<Segment>,
    /// Byte offset in the text.
    pub(super) at: usize,
    /// Written in `{ }`, as only routing conditions can have it.
    pub(super) braced: bool,
}

impl Name {
    /// Whether the name is one of a routing condition for a place in the body
    /// or the twin, where values of all types are.
    pub(super) fn is_message_json(&self) -> bool {
        let is = |root: &str| {
            self.segments
                .first()
                .is_some_and(|first| first.text.eq_ignore_ascii_case(root))
        };
        is("$body") || is("$twin")
    }
}

/// One part of a [`Name`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Segment {
    pub(super) text: Box<str>,
    pub(super) form: Form,
}

/// How a [`Segment`] was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As a word.
    Plain,
    /// In `[[ ]]`, hence never a collection.
    Quoted,
    /// As the place of an array's element, `[0]`; only in routing conditions.
    Index(usize),
}

impl Segment {
    /// The root of the names in a message's body.
    pub(super) fn body() -> Self {
        Self {
            text: "$body".into(),
            form: Form::Plain,
        }
    }

    /// Whether this is the collection (or a part of its name) called `name`.
    pub(super) fn is_collection(&self, name: &str) -> bool {
        self.form == Form::Plain && self.text.eq_ignore_ascii_case(name)
    }
}

/// A condition or one of its operands; `P` is what a name stands for.
///
/// Chains of one operator are flat, so that the tree is only as deep as the
/// text nests, which the parser bounds: evaluating and dropping recurse safely.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr<P> {
    Literal(Literal),
    Path(P),
    /// At least two operands.
    Or(Vec<Expr<P>>),
    /// At least two operands.
    And(Vec<Expr<P>>),
    Not(Box<Expr<P>>),
    Compare(Comparison, Box<[Expr<P>; 2]>),
    /// IN, or NIN when negated.
    In {
        operand: Box<Expr<P>>,
        set: LiteralSet,
        negated: bool,
    },
    /// Applied from left to right: `first op operand op operand …`.
    Arithmetic(Box<Expr<P>>, Vec<(Arithmetic, Expr<P>)>),
    Negate(Box<Expr<P>>),
    /// Arguments as the function takes them.
    Call(Function, Vec<Expr<P>>),
}

impl<P> Expr<P> {
    /// Shows every name, in the order of the text.
    pub(super) fn visit<'e>(&'e self, see: &mut impl FnMut(&'e P)) {
        match self {
            Self::Literal(_) => {}
            Self::Path(name) => see(name),
            Self::Or(operands) | Self::And(operands) | Self::Call(_, operands) => {
                operands.iter().for_each(|operand| operand.visit(see));
            }
            Self::Not(operand) | Self::Negate(operand) | Self::In { operand, .. } => operand.visit(see),
            Self::Compare(_, operands) => operands.iter().for_each(|operand| operand.visit(see)),
            Self::Arithmetic(first, rest) => {
                first.visit(see);
                rest.iter().for_each(|(_, operand)| operand.visit(see));
            }
        }
    }

    /// Names and texts such that the expression is true only where one of the
    /// names has its text as value; `None` when there are none.
    pub(super) fn needs_one_of(&self) -> Option<Vec<(&P, &str)>> {
        match self {
            Self::Compare(Comparison::Equal, operands) => match &**operands {
                [Self::Path(name), Self::Literal(Literal::Text(text))]
                | [Self::Literal(Literal::Text(text)), Self::Path(name)] => Some(vec![(name, text)]),
                _ => None,
            },
            // All must be true, so each one's needs are needs: the fewest are best.
            Self::And(operands) => operands
                .iter()
                .filter_map(Self::needs_one_of)
                .min_by_key(Vec::len),
            Self::Or(operands) => {
                let all: Option<Vec<_>> = operands.iter().map(Self::needs_one_of).collect();
                all.map(|needs| needs.into_iter().flatten().collect())
            }
            _ => None,
        }
    }

    /// Replaces every name by what `resolve` makes of it.
    pub(super) fn try_map<Q, E>(self, resolve: &mut impl FnMut(P) -> Result<Q, E>) -> Result<Expr<Q>, E> {
        Ok(match self {
            Self::Literal(literal) => Expr::Literal(literal),
            Self::Path(name) => Expr::Path(resolve(name)?),
            Self::Or(operands) => Expr::Or(try_map_all(operands, resolve)?),
            Self::And(operands) => Expr::And(try_map_all(operands, resolve)?),
            Self::Not(operand) => Expr::Not(Box::new(operand.try_map(resolve)?)),
            Self::Compare(comparison, operands) => {
                let [left, right] = *operands;
                Expr::Compare(
                    comparison,
                    Box::new([left.try_map(resolve)?, right.try_map(resolve)?]),
                )
            }
            Self::In {
                operand,
                set,
                negated,
            } => Expr::In {
                operand: Box::new(operand.try_map(resolve)?),
                set,
                negated,
            },
            Self::Arithmetic(first, rest) => {
                let first = Box::new(first.try_map(resolve)?);
                let rest = rest
                    .into_iter()
                    .map(|(operator, operand)| Ok((operator, operand.try_map(resolve)?)))
                    .collect::<Result<_, E>>()?;
                Expr::Arithmetic(first, rest)
            }
            Self::Negate(operand) => Expr::Negate(Box::new(operand.try_map(resolve)?)),
            Self::Call(function, arguments) => Expr::Call(function, try_map_all(arguments, resolve)?),
        })
    }
}

fn try_map_all<P, Q, E>(
    exprs: Vec<Expr<P>>,
    resolve: &mut impl FnMut(P) -> Result<Q, E>,
) -> Result<Vec<Expr<Q>>, E> {
    exprs.into_iter().map(|expr| expr.try_map(resolve)).collect()
}
