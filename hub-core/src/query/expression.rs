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
use super::ast::{Expr, Name, Segment};
use super::error::Fault;
use super::functions::Function;
use super::lexer::Kind;
use super::parser::Parser;
use super::types::{Type, type_of};
use super::value::{Arithmetic, Comparison, Literal};
use crate::events::Source;

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
            let at = self.at();
            let operand = self.disjunction()?;
            let known = operands.iter().map(type_of).find(|found| *found != Type::Any);
            self.check_type(at, &operand, known.unwrap_or(Type::Any), "??")?;
            operands.push(operand);
        }
        Ok(Expr::Call(Function::Coalesce, operands))
    }

    /// `conjunction OR conjunction …`
    fn disjunction(&mut self) -> Parsed {
        self.chain("OR", Self::conjunction, Expr::Or)
    }

    /// `negation AND negation …`
    fn conjunction(&mut self) -> Parsed {
        self.chain("AND", Self::negation, Expr::And)
    }

    fn chain(
        &mut self,
        keyword: &str,
        operand: fn(&mut Self) -> Parsed,
        combine: fn(Vec<Expr<Name>>) -> Expr<Name>,
    ) -> Parsed {
        let at = self.at();
        let first = operand(self)?;
        if !self.sees_keyword(keyword) {
            return Ok(first);
        }
        self.check_type(at, &first, Type::Bool, keyword)?;
        let mut operands = vec![first];
        while self.eat_keyword(keyword) {
            let at = self.at();
            let operand = operand(self)?;
            self.check_type(at, &operand, Type::Bool, keyword)?;
            operands.push(operand);
        }
        Ok(combine(operands))
    }

    /// Refuses an operand that can never be what its operator needs; in
    /// message routing only.
    fn check_type(&self, at: usize, operand: &Expr<Name>, wanted: Type, operator: &str) -> Result<(), Fault> {
        if !self.is_routing() {
            return Ok(());
        }
        let found = type_of(operand);
        if found.suits(wanted) {
            return Ok(());
        }
        let hint = match (operator, wanted) {
            ("NOT", Type::Bool) => "; NOT binds tighter than a comparison, write NOT (…)",
            (_, Type::Number) if found == Type::Text => "; AS_NUMBER makes a number of a string",
            ("the comparison", Type::Text) => "; properties of a message are strings",
            _ => "",
        };
        let message = format!("{operator} takes {wanted} here, this is {found}{hint}");
        Err(Fault::new(at, message))
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
            let at = self.at();
            let right = self.sum()?;
            self.check_type(at, &right, type_of(&left), "the comparison")?;
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
        let at = self.at();
        let first = self.calculated_sum()?;
        if *self.peek() != Kind::Concatenate {
            return Ok(first);
        }
        self.check_type(at, &first, Type::Text, "||")?;
        let mut operands = vec![first];
        while self.eat(&Kind::Concatenate) {
            let at = self.at();
            let operand = self.calculated_sum()?;
            self.check_type(at, &operand, Type::Text, "||")?;
            operands.push(operand);
        }
        Ok(Expr::Call(Function::Concat, operands))
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
        let at = self.at();
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some(operator) = operator(self.peek()) {
            if rest.is_empty() {
                self.check_type(at, &first, Type::Number, "the calculation")?;
            }
            self.advance();
            let at = self.at();
            let operand = operand(self)?;
            self.check_type(at, &operand, Type::Number, "the calculation")?;
            rest.push((operator, operand));
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
            let at = self.at();
            let operand = self.nested(Self::operand)?;
            self.check_type(at, &operand, Type::Number, "the minus sign")?;
            return Ok(match operand {
                Expr::Literal(Literal::Number(n)) => Expr::Literal(Literal::Number(-n)),
                operand => Expr::Negate(Box::new(operand)),
            });
        }
        if self.is_routing() && self.eat_keyword("NOT") {
            let at = self.at();
            let operand = self.nested(Self::operand)?;
            self.check_type(at, &operand, Type::Bool, "NOT")?;
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
        if function == Function::TwinChangeIncludes {
            return self.twin_change_includes();
        }
        let name_at = self.at();
        self.advance();
        self.expect(&Kind::LeftParen, "'('")?;
        let arguments_at = self.at();
        let arguments = if *self.peek() == Kind::RightParen {
            Vec::new()
        } else {
            self.nested(|parser| parser.arguments(name, function))?
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

    fn arguments(&mut self, name: &str, function: Function) -> Result<Vec<Expr<Name>>, Fault> {
        let mut index = 0;
        self.list(|parser| {
            let at = parser.at();
            let argument = if parser.is_routing() {
                parser.condition()?
            } else {
                parser.sum()?
            };
            let wanted = function.argument(index);
            parser.check_type(at, &argument, wanted, &name.to_ascii_uppercase())?;
            index += 1;
            Ok(argument)
        })
    }

    /// `TWIN_CHANGE_INCLUDES(path)`: the path is one of the twin, and leads into
    /// the body of the event.
    fn twin_change_includes(&mut self) -> Parsed {
        if self.source != Some(Source::TwinChange) {
            return Err(self.fault("the function is for routes with the source TwinChangeEvents"));
        }
        self.advance();
        self.expect(&Kind::LeftParen, "'('")?;
        let mut name = self.name("a path")?;
        if !is_in_twin(&name) {
            let message =
                "TWIN_CHANGE_INCLUDES takes a path below tags, properties.desired or properties.reported";
            return Err(Fault::new(name.at, message));
        }
        name.segments.insert(0, Segment::body());
        self.expect(&Kind::RightParen, "')'")?;
        Ok(Expr::Call(Function::TwinChangeIncludes, vec![Expr::Path(name)]))
    }
}

/// Whether a path leads to something that a twin change event can report.
fn is_in_twin(name: &Name) -> bool {
    let is = |at: usize, known: &str| {
        name.segments
            .get(at)
            .is_some_and(|segment| segment.text.eq_ignore_ascii_case(known))
    };
    let above = match () {
        () if is(0, "tags") => 1,
        () if is(0, "properties") && (is(1, "desired") || is(1, "reported")) => 2,
        () => return false,
    };
    name.segments.len() > above
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
