//! From tokens to a [`Statement`]: the second stage.
//!
//! Checks syntax only; what the names mean is looked up afterwards. Statements
//! are here, conditions in [`expression`](super::expression).

use super::Dialect;
use super::ast::{Column, Expr, Form, Item, Items, Measure, Name, Segment, Statement};
use super::error::Fault;
use super::lexer::{self, Kind, Token};
use super::value::Literal;
use crate::events;
use crate::limits;

/// Words that a path can contain only in `[[ ]]`.
const RESERVED: &[&str] = &[
    "SELECT",
    "TOP",
    "FROM",
    "WHERE",
    "GROUP",
    "BY",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "NIN",
    "TRUE",
    "FALSE",
    "NULL",
    "UNDEFINED",
];

/// Words that a routing condition cannot have as the name of a property.
const RESERVED_IN_ROUTING: &[&str] = &["AND", "OR", "NOT", "TRUE", "FALSE", "NULL", "UNDEFINED"];

/// What people try because SQL has it, and this language does not.
const UNSUPPORTED: &[&str] = &[
    "BETWEEN", "DISTINCT", "EXISTS", "HAVING", "IS", "JOIN", "LIKE", "LIMIT", "OFFSET", "ORDER", "UNION",
];

/// Reads a whole query.
pub(super) fn statement(text: &str, dialect: Dialect) -> Result<Statement, Fault> {
    let mut parser = Parser::new(text, dialect)?;
    let statement = parser.statement()?;
    parser.finish()?;
    Ok(statement)
}

/// Reads the condition of a route with this source; nothing at all is true.
pub(super) fn routing_condition(text: &str, source: events::Source) -> Result<Expr<Name>, Fault> {
    let mut parser = Parser::new(text, Dialect::Routing)?;
    parser.source = Some(source);
    if *parser.peek() == Kind::End {
        return Ok(Expr::Literal(Literal::Bool(true)));
    }
    if parser.sees_keyword("SELECT") && matches!(parser.following(), Kind::Word(_) | Kind::Star) {
        return Err(parser.fault("a route has a condition, not a query"));
    }
    let condition = parser.condition()?;
    parser.expect(&Kind::End, "the end of the condition")?;
    Ok(condition)
}

/// A reading position in the tokens of a text.
pub(super) struct Parser<'t> {
    text: &'t str,
    pub(super) dialect: Dialect,
    /// The source of the route that has the condition.
    pub(super) source: Option<events::Source>,
    /// Ends with [`Kind::End`], which is never passed.
    tokens: Vec<Token<'t>>,
    next: usize,
    /// How many enclosing constructs are open.
    depth: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, dialect: Dialect) -> Result<Self, Fault> {
        Ok(Self {
            text,
            dialect,
            source: None,
            tokens: lexer::tokens(text, dialect)?,
            next: 0,
            depth: 0,
        })
    }

    /// `SELECT [TOP n] items FROM collection [WHERE condition] [GROUP BY paths]`
    fn statement(&mut self) -> Result<Statement, Fault> {
        if self.is_routing() {
            return Err(self.unexpected("a condition: message routing has no queries"));
        }
        self.expect_keyword("SELECT")?;
        let top = if self.eat_keyword("TOP") {
            Some(self.count()?)
        } else {
            None
        };
        let items = self.items()?;
        self.expect_keyword("FROM")?;
        let collection = self.name("a collection")?;
        let condition = self.where_clause()?;
        let group_by = self.group_by()?;
        Ok(Statement {
            top,
            items,
            collection,
            condition,
            group_by,
        })
    }

    /// The number after TOP.
    fn count(&mut self) -> Result<u64, Fault> {
        // Every integer below is exact in a double.
        const LIMIT: f64 = 9_007_199_254_740_992.0;
        match self.peek() {
            Kind::Number(n) if n.fract() == 0.0 && *n < LIMIT => {
                let count = *n as u64;
                self.advance();
                Ok(count)
            }
            _ => Err(self.unexpected("a number of rows")),
        }
    }

    fn items(&mut self) -> Result<Items, Fault> {
        if self.eat(&Kind::Star) {
            return Ok(Items::Star);
        }
        self.list(Self::item).map(Items::List)
    }

    /// `column [AS alias]`
    fn item(&mut self) -> Result<Item, Fault> {
        let at = self.at();
        let column = match self.called_word() {
            Some(function) => self.aggregate(function)?,
            None => Column::Name(self.name("'*', a path or an aggregate")?),
        };
        let alias = if self.eat_keyword("AS") {
            Some(self.segment("a name for the column")?.text)
        } else {
            None
        };
        Ok(Item { column, alias, at })
    }

    /// `COUNT()`, or another aggregate of one path.
    fn aggregate(&mut self, function: &str) -> Result<Column, Fault> {
        let measure = Measure::ALL
            .into_iter()
            .find(|measure| measure.name().eq_ignore_ascii_case(function));
        if measure.is_none() && !function.eq_ignore_ascii_case("COUNT") {
            return Err(self.unexpected("a path or one of COUNT, AVG, SUM, MIN, MAX"));
        }
        self.advance();
        self.expect(&Kind::LeftParen, "'('")?;
        let column = match measure {
            None => Column::Count,
            Some(measure) => Column::Aggregate(measure, self.name("a path")?),
        };
        self.expect(&Kind::RightParen, "')'")?;
        Ok(column)
    }

    fn where_clause(&mut self) -> Result<Option<Expr<Name>>, Fault> {
        if self.eat_keyword("WHERE") {
            self.condition().map(Some)
        } else {
            Ok(None)
        }
    }

    fn group_by(&mut self) -> Result<Vec<Name>, Fault> {
        if !self.eat_keyword("GROUP") {
            return Ok(Vec::new());
        }
        self.expect_keyword("BY")?;
        self.list(|parser| parser.name("a path"))
    }

    /// Nothing but a semicolon may follow.
    fn finish(&mut self) -> Result<(), Fault> {
        self.eat(&Kind::Semicolon);
        self.expect(&Kind::End, "the end of the query")
    }

    /// `segment . segment …`
    pub(super) fn name(&mut self, expected: &str) -> Result<Name, Fault> {
        let at = self.at();
        let mut segments = vec![self.segment(expected)?];
        loop {
            if self.eat(&Kind::Dot) {
                segments.push(self.segment("a path segment")?);
            } else if self.is_routing() && self.eat(&Kind::LeftBracket) {
                segments.push(self.index()?);
            } else {
                break;
            }
        }
        Ok(Name {
            segments,
            at,
            braced: false,
        })
    }

    /// `0]`, the place of an array's element, its opening bracket consumed.
    fn index(&mut self) -> Result<Segment, Fault> {
        // Every integer below is exact in a double.
        const LIMIT: f64 = 4_294_967_296.0;
        let index = match *self.peek() {
            Kind::Number(n) if n.fract() == 0.0 && n < LIMIT => n as usize,
            _ => return Err(self.unexpected("the index of an element")),
        };
        self.advance();
        self.expect(&Kind::RightBracket, "']'")?;
        Ok(Segment {
            text: format!("[{index}]").into(),
            form: Form::Index(index),
        })
    }

    pub(super) fn is_routing(&self) -> bool {
        self.dialect == Dialect::Routing
    }

    fn segment(&mut self, expected: &str) -> Result<Segment, Fault> {
        let (text, form) = match *self.peek() {
            Kind::Word(word) if !self.is_reserved(word) => (word, Form::Plain),
            Kind::Quoted(text) => (text, Form::Quoted),
            Kind::Word(word) if self.follows_dot() => {
                return Err(self.fault(&format!("a reserved word must be quoted, [[{word}]]")));
            }
            _ => return Err(self.unexpected(expected)),
        };
        self.advance();
        Ok(Segment {
            text: text.into(),
            form,
        })
    }

    /// The next word if a parenthesis follows it and it is not reserved.
    pub(super) fn called_word(&self) -> Option<&'t str> {
        match (self.peek(), self.following()) {
            (Kind::Word(word), Kind::LeftParen) if !self.is_reserved(word) => Some(word),
            _ => None,
        }
    }

    /// The token after the next one.
    fn following(&self) -> &Kind<'t> {
        self.tokens
            .get(self.next + 1)
            .map_or(&Kind::End, |token| &token.kind)
    }

    /// One or more elements with commas between them.
    pub(super) fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut elements = vec![element(self)?];
        while self.eat(&Kind::Comma) {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// Runs `parse` one level deeper, within the bound of nesting.
    pub(super) fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if self.depth == limits::QUERY_DEPTH {
            let hint = format!(
                "the expression is nested deeper than {} levels",
                limits::QUERY_DEPTH
            );
            return Err(self.fault(&hint));
        }
        self.depth += 1;
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    pub(super) fn peek(&self) -> &Kind<'t> {
        self.tokens.get(self.next).map_or(&Kind::End, |token| &token.kind)
    }

    /// Byte offset of the next token.
    pub(super) fn at(&self) -> usize {
        self.tokens
            .get(self.next)
            .map_or(self.text.len(), |token| token.at)
    }

    pub(super) fn advance(&mut self) {
        if *self.peek() != Kind::End {
            self.next += 1;
        }
    }

    pub(super) fn eat(&mut self, kind: &Kind<'_>) -> bool {
        let found = self.peek() == kind;
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect(&mut self, kind: &Kind<'_>, expected: &str) -> Result<(), Fault> {
        if self.eat(kind) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    pub(super) fn sees_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Kind::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    pub(super) fn eat_keyword(&mut self, keyword: &str) -> bool {
        let found = self.sees_keyword(keyword);
        if found {
            self.advance();
        }
        found
    }

    fn expect_keyword(&mut self, keyword: &str) -> Result<(), Fault> {
        if self.eat_keyword(keyword) {
            Ok(())
        } else {
            Err(self.unexpected(keyword))
        }
    }

    /// The next token does not belong where it is.
    pub(super) fn unexpected(&self, expected: &str) -> Fault {
        match *self.peek() {
            Kind::End => Fault::new(self.at(), format!("Unexpected end of input: expected {expected}")),
            Kind::Word(word) if UNSUPPORTED.iter().any(|w| w.eq_ignore_ascii_case(word)) => {
                self.fault(&format!("{} is not supported", word.to_ascii_uppercase()))
            }
            _ => self.fault(&format!("expected {expected}")),
        }
    }

    /// The next token is refused for the reason given.
    pub(super) fn fault(&self, hint: &str) -> Fault {
        let end = self
            .tokens
            .get(self.next)
            .map_or(self.text.len(), |token| token.end);
        let input = self.text.get(self.at()..end).unwrap_or_default();
        Fault::unexpected(self.at(), input, Some(hint))
    }

    fn is_reserved(&self, word: &str) -> bool {
        let reserved = match self.dialect {
            Dialect::Service | Dialect::Lenient => RESERVED,
            // Below $body and $twin any word is a key.
            Dialect::Routing if self.follows_dot() => return false,
            Dialect::Routing => RESERVED_IN_ROUTING,
        };
        reserved
            .iter()
            .any(|reserved| reserved.eq_ignore_ascii_case(word))
    }

    fn follows_dot(&self) -> bool {
        self.next
            .checked_sub(1)
            .and_then(|previous| self.tokens.get(previous))
            .is_some_and(|token| token.kind == Kind::Dot)
    }
}
