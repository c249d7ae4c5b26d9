//! The part of the parser that reads conditions, by recursive descent.
//!
//! One method per level of precedence, each made of the next tighter one:
//!
//! ```text
//! NOT a + 1 = 2 AND b OR c
//!     ~                       operand, product
//!     ~~~~~                   sum
//!     ~~~~~~~~~               predicate
//! ~~~~~~~~~~~~~               negation
//! ~~~~~~~~~~~~~~~~~~~         conjunction
//! ~~~~~~~~~~~~~~~~~~~~~~~~    condition
//! ```
//!
//! In the routing dialect NOT is as tight as a minus sign, `||` is a sum's
//! operator, and the loosest of all is `??`.

use super::Dialect;
use super::ast::{Expr, Name};
use super::error::Fault;
use super::functions::Function;
use super::lexer::Kind;
use super::parser::Parser;
use super::value::{Arithmetic, Comparison, Literal};

type Parsed = Result<Expr<Name>, Fault>;

impl Parser<'_> {
    /// A whole condition: a disjunction, or `disjunction ?? disjunction …`
    pub(super) fn condition(&mut self) -> Parsed {
        let first = self.disjunction()?;
        if *self.peek() != Kind::Coalesce {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.eat(&Kind::Coalesce) {
            operands.push(self.disjunction()?);
        }
        Ok(Expr::Call(Function::Coalesce, operands))
    }

    /// `conjunction OR conjunction …`
    fn disjunction(&mut self) -> Parsed {
        let first = self.conjunction()?;
        self.chain("OR", first, Self::conjunction, Expr::Or)
    }

    /// `negation AND negation …`
    fn conjunction(&mut self) -> Parsed {
        let first = self.negation()?;
        self.chain("AND", first, Self::negation, Expr::And)
    }

    fn chain(
        &mut self,
        keyword: &str,
        first: Expr<Name>,
        operand: fn(&mut Self) -> Parsed,
        combine: fn(Vec<Expr<Name>>) -> Expr<Name>,
    ) -> Parsed {
        if !self.sees_keyword(keyword) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.eat_keyword(keyword) {
            operands.push(operand(self)?);
        }
        Ok(combine(operands))
    }

    /// `NOT negation`, looser than a comparison: `NOT a = 1` is `NOT (a = 1)`.
    fn negation(&mut self) -> Parsed {
        if !self.is_routing() && self.eat_keyword("NOT") {
            let operand = self.nested(Self::negation)?;
            return Ok(Expr::Not(Box::new(operand)));
        }
        self.predicate()
    }

    /// `sum`, `sum = sum` or `sum IN [literals]`
    fn predicate(&mut self) -> Parsed {
        let left = self.sum()?;
        if let Some(comparison) = self.comparison() {
            self.advance();
            let right = self.sum()?;
            return Ok(Expr::Compare(comparison, Box::new([left, right])));
        }
        if self.is_routing() {
            if self.sees_keyword("IN") || self.sees_keyword("NIN") {
                return Err(self.fault("IN is not available in message routing"));
            }
            return Ok(left);
        }
        if self.sees_keyword("NOT") {
            return Err(self.fault("the negation of IN is NIN"));
        }
        let negated = self.sees_keyword("NIN");
        if negated || self.sees_keyword("IN") {
            self.advance();
            return self.membership(left, negated);
        }
        Ok(left)
    }

    fn comparison(&self) -> Option<Comparison> {
        Some(match self.peek() {
            Kind::Equal => Comparison::Equal,
            Kind::NotEqual => Comparison::NotEqual,
            Kind::Less => Comparison::Less,
            Kind::LessOrEqual => Comparison::LessOrEqual,
            Kind::Greater => Comparison::Greater,
            Kind::GreaterOrEqual => Comparison::GreaterOrEqual,
            _ => return None,
        })
    }

    /// The list after IN or NIN.
    fn membership(&mut self, operand: Expr<Name>, negated: bool) -> Parsed {
        let parentheses = self.dialect == Dialect::Lenient && self.eat(&Kind::LeftParen);
        let (close, expected) = if parentheses {
            (Kind::RightParen, "',' or ')'")
        } else {
            self.expect(&Kind::LeftBracket, "'['")?;
            (Kind::RightBracket, "',' or ']'")
        };
        let members = if *self.peek() == close {
            Vec::new()
        } else {
            self.list(Self::member)?
        };
        self.expect(&close, expected)?;
        Ok(Expr::In {
            operand: Box::new(operand),
            set: members.into_iter().collect(),
            negated,
        })
    }

    /// One constant of an IN list.
    fn member(&mut self) -> Result<Literal, Fault> {
        if self.eat(&Kind::Minus) {
            let Kind::Number(n) = *self.peek() else {
                return Err(self.unexpected("a number"));
            };
            self.advance();
            return Ok(Literal::Number(-n));
        }
        self.literal().ok_or_else(|| self.unexpected("a constant"))
    }

    /// `product + product - product …`, or `product || product …`
    fn sum(&mut self) -> Parsed {
        let mut operands = vec![self.calculated_sum()?];
        while self.eat(&Kind::Concatenate) {
            operands.push(self.calculated_sum()?);
        }
        Ok(match operands.pop() {
            Some(only) if operands.is_empty() => only,
            last => {
                operands.extend(last);
                Expr::Call(Function::Concat, operands)
            }
        })
    }

    fn calculated_sum(&mut self) -> Parsed {
        self.arithmetic(Self::product, |kind| match kind {
            Kind::Plus => Some(Arithmetic::Add),
            Kind::Minus => Some(Arithmetic::Subtract),
            _ => None,
        })
    }

    /// `operand * operand / operand …`
    fn product(&mut self) -> Parsed {
        self.arithmetic(Self::operand, |kind| match kind {
            Kind::Star => Some(Arithmetic::Multiply),
            Kind::Slash => Some(Arithmetic::Divide),
            Kind::Percent => Some(Arithmetic::Remainder),
            _ => None,
        })
    }

    fn arithmetic(
        &mut self,
        operand: fn(&mut Self) -> Parsed,
        operator: fn(&Kind<'_>) -> Option<Arithmetic>,
    ) -> Parsed {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some(operator) = operator(self.peek()) {
            self.advance();
            rest.push((operator, operand(self)?));
        }
        Ok(if rest.is_empty() {
            first
        } else {
            Expr::Arithmetic(Box::new(first), rest)
        })
    }

    /// `- operand`, a constant, a call, a path or a condition in parentheses.
    fn operand(&mut self) -> Parsed {
        if self.eat(&Kind::Minus) {
            return Ok(match self.nested(Self::operand)? {
                Expr::Literal(Literal::Number(n)) => Expr::Literal(Literal::Number(-n)),
                operand => Expr::Negate(Box::new(operand)),
            });
        }
        if self.is_routing() && self.eat_keyword("NOT") {
            let operand = self.nested(Self::operand)?;
            return Ok(Expr::Not(Box::new(operand)));
        }
        if self.eat(&Kind::LeftBrace) {
            let mut name = self.name("a system property")?;
            name.braced = true;
            self.expect(&Kind::RightBrace, "'}'")?;
            return Ok(Expr::Path(name));
        }
        if self.eat(&Kind::LeftParen) {
            let inner = self.nested(Self::condition)?;
            self.expect(&Kind::RightParen, "')'")?;
            return Ok(inner);
        }
        if let Some(literal) = self.literal() {
            return Ok(Expr::Literal(literal));
        }
        match self.called_word() {
            Some(function) => self.call(function),
            None => self.name("a path, a constant or a function").map(Expr::Path),
        }
    }

    /// Takes the next token if it is a constant.
    fn literal(&mut self) -> Option<Literal> {
        let literal = match self.peek() {
            Kind::Number(n) => Literal::Number(*n),
            Kind::Text(text) => Literal::Text(text.as_str().into()),
            Kind::Word(word) => named_constant(word)?,
            _ => return None,
        };
        self.advance();
        Some(literal)
    }

    /// `FUNCTION(argument, …)`
    fn call(&mut self, name: &str) -> Parsed {
        let function = Function::find(name, self.dialect).map_err(|hint| self.fault(hint))?;
        let name_at = self.at();
        self.advance();
        self.expect(&Kind::LeftParen, "'('")?;
        let arguments_at = self.at();
        let arguments = if *self.peek() == Kind::RightParen {
            Vec::new()
        } else {
            let argument = if self.is_routing() {
                Self::condition
            } else {
                Self::sum
            };
            self.nested(|parser| parser.list(argument))?
        };
        self.expect(&Kind::RightParen, "',' or ')'")?;
        let arity = function.arity();
        if !arity.contains(&arguments.len()) {
            let takes = match (*arity.start(), *arity.end()) {
                (least, usize::MAX) => format!("at least {least}"),
                (least, most) if least < most => format!("{least} to {most}"),
                (exactly, _) => exactly.to_string(),
            };
            let hint = format!(
                "the function takes {takes} argument(s), found {}",
                arguments.len()
            );
            return Err(Fault::unexpected(name_at, name, Some(&hint)));
        }
        if function.takes_path() && !arguments.iter().all(|argument| matches!(argument, Expr::Path(_))) {
            let message = format!("{} takes a path", name.to_ascii_uppercase());
            return Err(Fault::new(arguments_at, message));
        }
        Ok(Expr::Call(function, arguments))
    }
}

fn named_constant(word: &str) -> Option<Literal> {
    let is = |name: &str| name.eq_ignore_ascii_case(word);
    Some(match word {
        _ if is("TRUE") => Literal::Bool(true),
        _ if is("FALSE") => Literal::Bool(false),
        _ if is("NULL") => Literal::Null,
        _ if is("UNDEFINED") => Literal::Undefined,
        _ => return None,
    })
}
