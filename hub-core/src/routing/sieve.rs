//! Rules routes out before their conditions are evaluated.
//!
//! Most conditions compare a property with a text, and can hold only if one of
//! such comparisons does. So each property is looked at once and compared with
//! the texts of all routes; only routes of which a text was found, and those
//! without such comparisons, are left to be evaluated.

use super::Compiled;
use super::evaluation::Slot;
use crate::query::{Row, Value};

/// Texts that a name is compared with, and the routes that need each.
type Texts = Vec<(Box<str>, u128)>;

/// The comparisons of the routes of one source. Routes are bits by their number
/// among these, of which there are at most [`limits::ROUTES`](crate::limits::ROUTES).
#[derive(Debug, Clone, Default)]
pub(super) struct Sieve {
    /// Routes that are always to be evaluated.
    always: u128,
    names: Vec<(Slot, Texts)>,
}

impl Sieve {
    pub(super) fn new(routes: &[Compiled]) -> Self {
        let mut sieve = Self::default();
        for (number, route) in routes.iter().enumerate() {
            let bit = 1 << number;
            match route.condition.needs_one_of() {
                None => sieve.always |= bit,
                Some(needed) => needed
                    .into_iter()
                    .for_each(|(name, text)| *sieve.routes_of(name, text) |= bit),
            }
        }
        sieve
    }

    /// The routes that need a name to have a value.
    fn routes_of(&mut self, name: &Slot, text: &str) -> &mut u128 {
        let at = position_or_push(
            &mut self.names,
            |(known, _)| known == name,
            || (name.clone(), Texts::new()),
        );
        let texts = &mut self.names[at].1;
        let at = position_or_push(texts, |(known, _)| **known == *text, || (text.into(), 0));
        &mut texts[at].1
    }

    /// The routes whose condition may hold for a message.
    pub(super) fn candidates(&self, message: &impl Row<Slot>) -> u128 {
        let mut candidates = self.always;
        for (name, texts) in &self.names {
            if let Value::Str(found) = message.get(name) {
                let same = texts.iter().filter(|(text, _)| **text == *found);
                candidates |= same.fold(0, |routes, (_, more)| routes | more);
            }
        }
        candidates
    }
}

fn position_or_push<T>(items: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> usize {
    items.iter().position(is).unwrap_or_else(|| {
        items.push(make());
        items.len() - 1
    })
}
