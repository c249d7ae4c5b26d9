//! Evaluates conditions over rows.
//!
//! Runs once per device of the hub, so comparing a value that the row holds
//! allocates nothing. The depth of recursion is that of the query's nesting,
//! which the parser bounds.

use super::ast::Expr;
use super::functions::Function;
use super::row::Row;
use super::value::{Arithmetic, Literal, Truth, Value};

/// Whether `condition` holds in `row`.
pub(super) fn truth<P, R: Row<P> + ?Sized>(condition: &Expr<P>, row: &R) -> Truth {
    match condition {
        Expr::Or(operands) => {
            let mut result = Truth::False;
            for operand in operands {
                result = result.max(truth(operand, row));
                if result == Truth::True {
                    break;
                }
            }
            result
        }
        Expr::And(operands) => {
            let mut result = Truth::True;
            for operand in operands {
                result = result.min(truth(operand, row));
                if result == Truth::False {
                    break;
                }
            }
            result
        }
        Expr::Not(operand) => truth(operand, row).negate(),
        Expr::Compare(comparison, operands) => {
            let [left, right] = &**operands;
            // Most comparisons are of this kind.
            if let (Expr::Path(path), Expr::Literal(Literal::Text(text))) = (left, right) {
                return match row.get(path) {
                    Value::Str(found) => comparison.apply_to_texts(&found, text),
                    _ => Truth::Undefined,
                };
            }
            comparison.apply(&value(left, row), &value(right, row))
        }
        Expr::In {
            operand,
            set,
            negated,
        } => {
            let member = set.contains(&value(operand, row));
            if *negated { member.negate() } else { member }
        }
        Expr::Call(function, arguments) => call(*function, arguments, row).truth(),
        Expr::Literal(literal) => literal.value().truth(),
        Expr::Path(path) => row.get(path).truth(),
        Expr::Arithmetic(..) | Expr::Negate(_) => Truth::Undefined,
    }
}

/// What `expr` is worth in `row`.
fn value<'a, P, R: Row<P> + ?Sized>(expr: &'a Expr<P>, row: &'a R) -> Value<'a> {
    match expr {
        Expr::Literal(literal) => literal.value(),
        Expr::Path(path) => row.get(path),
        Expr::Arithmetic(first, rest) => calculate(first, rest, row).map_or(Value::Undefined, Value::Number),
        Expr::Negate(operand) => number(operand, row).map_or(Value::Undefined, |n| Value::Number(-n)),
        Expr::Call(function, arguments) => call(*function, arguments, row),
        condition => truth(condition, row).into(),
    }
}

fn call<'a, P, R: Row<P> + ?Sized>(function: Function, arguments: &'a [Expr<P>], row: &'a R) -> Value<'a> {
    function.call(arguments.len(), |index| {
        // The parser has checked how many arguments there are.
        arguments
            .get(index)
            .map_or(Value::Undefined, |argument| value(argument, row))
    })
}

fn calculate<P, R: Row<P> + ?Sized>(first: &Expr<P>, rest: &[(Arithmetic, Expr<P>)], row: &R) -> Option<f64> {
    rest.iter()
        .try_fold(number(first, row)?, |result, (operator, operand)| {
            operator.apply(result, number(operand, row)?)
        })
}

fn number<P, R: Row<P> + ?Sized>(expr: &Expr<P>, row: &R) -> Option<f64> {
    match value(expr, row) {
        Value::Number(n) => Some(n),
        _ => None,
    }
}
