//! What comes out of the rows that match: columns, or one row per group.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::ast::Measure;
use super::row::{Path, Row};
use super::value::{Value, json_number};

/// How matching rows become output.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'q> {
    /// `SELECT *`: each row as a whole, which the owner of the rows renders.
    Whole,
    /// Some columns of each row.
    Fields(&'q Projection),
    /// One output row per group; needs every matching row before the first
    /// comes out.
    Groups(&'q Grouping),
}

/// The columns of a query without aggregates.
#[derive(Debug, Clone)]
pub struct Projection {
    pub(super) fields: Vec<(Box<str>, Path)>,
}

impl Projection {
    /// The columns of `row`. Undefined values are left out; of columns with
    /// the same name the last defined one stays.
    #[must_use]
    pub fn project<R: Row + ?Sized>(&self, row: &R) -> Map<String, Json> {
        self.fields
            .iter()
            .filter_map(|(name, path)| Some((String::from(&**name), row.get(path).into_json()?)))
            .collect()
    }
}

/// The columns and keys of a query with aggregates or GROUP BY.
#[derive(Debug, Clone)]
pub struct Grouping {
    pub(super) keys: Vec<Path>,
    pub(super) columns: Vec<(Box<str>, GroupColumn)>,
    pub(super) top: Option<u64>,
}

/// Where a column of a group comes from.
#[derive(Debug, Clone)]
pub(super) enum GroupColumn {
    /// The group key of this index.
    Key(usize),
    Count,
    Aggregate(Measure, Path),
}

impl Grouping {
    /// Starts collecting rows.
    #[must_use]
    pub fn aggregate(&self) -> Aggregation<'_> {
        let mut groups = BTreeMap::new();
        if self.keys.is_empty() {
            // Without keys there is one group, even of no rows at all.
            groups.insert(Vec::new(), Group::new(self, Vec::new()));
        }
        Aggregation {
            grouping: self,
            groups,
        }
    }
}

/// The groups of the rows seen so far; as many as there are distinct keys.
#[derive(Debug)]
pub struct Aggregation<'q> {
    grouping: &'q Grouping,
    groups: BTreeMap<Vec<GroupKey>, Group>,
}

impl Aggregation<'_> {
    /// Counts in a row that matches the query.
    pub fn add<R: Row + ?Sized>(&mut self, row: &R) {
        let values = || self.grouping.keys.iter().map(|path| row.get(path));
        let group = self
            .groups
            .entry(values().map(GroupKey::new).collect())
            .or_insert_with(|| Group::new(self.grouping, values().map(Value::into_json).collect()));
        for ((_, column), tally) in self.grouping.columns.iter().zip(&mut group.tallies) {
            match column {
                GroupColumn::Key(_) => {}
                GroupColumn::Count => tally.count += 1,
                GroupColumn::Aggregate(_, path) => {
                    if let Value::Number(n) = row.get(path) {
                        tally.add(n);
                    }
                }
            }
        }
    }

    /// One output row per group, ordered by key and cut to the query's TOP.
    ///
    /// A key that is undefined is left out, as is an average, minimum or
    /// maximum of no numbers.
    #[must_use]
    pub fn finish(self) -> Vec<Map<String, Json>> {
        let top = self.grouping.top.unwrap_or(u64::MAX);
        let top = usize::try_from(top).unwrap_or(usize::MAX);
        self.groups
            .into_values()
            .take(top)
            .map(|group| group.into_row(&self.grouping.columns))
            .collect()
    }
}

#[derive(Debug)]
struct Group {
    /// The keys as the first row of the group has them.
    keys: Vec<Option<Json>>,
    /// One for each column; those of key columns stay empty.
    tallies: Vec<Tally>,
}

impl Group {
    fn new(grouping: &Grouping, keys: Vec<Option<Json>>) -> Self {
        Self {
            keys,
            tallies: vec![Tally::default(); grouping.columns.len()],
        }
    }

    fn into_row(self, columns: &[(Box<str>, GroupColumn)]) -> Map<String, Json> {
        columns
            .iter()
            .zip(&self.tallies)
            .filter_map(|((name, column), tally)| {
                let value = match column {
                    GroupColumn::Key(index) => self.keys.get(*index)?.clone()?,
                    GroupColumn::Count => Json::from(tally.count),
                    GroupColumn::Aggregate(measure, _) => json_number(tally.measure(*measure)?)?,
                };
                Some((String::from(&**name), value))
            })
            .collect()
    }
}

/// What is known of the numbers in one column of a group.
#[derive(Debug, Clone, Default)]
struct Tally {
    count: u64,
    sum: f64,
    least: Option<f64>,
    greatest: Option<f64>,
}

impl Tally {
    fn add(&mut self, number: f64) {
        self.count += 1;
        self.sum += number;
        self.least = Some(self.least.map_or(number, |least| least.min(number)));
        self.greatest = Some(self.greatest.map_or(number, |greatest| greatest.max(number)));
    }

    fn measure(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Sum => Some(self.sum),
            Measure::Average => (self.count > 0).then(|| self.sum / self.count as f64),
            Measure::Least => self.least,
            Measure::Greatest => self.greatest,
        }
    }
}

/// A value as a key: equal values have equal keys, and numbers and strings
/// sort in their own order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum GroupKey {
    Undefined,
    Null,
    Bool(bool),
    /// The number's bits, rearranged so that they sort like the number.
    Number(i64),
    Str(Box<str>),
    /// The JSON text of an object or array; object keys are sorted in it.
    Compound(String),
}

impl GroupKey {
    fn new(value: Value<'_>) -> Self {
        match value {
            Value::Undefined => Self::Undefined,
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(b),
            Value::Number(n) => {
                // Adding zero makes the two zeros one. Negative numbers sort
                // backwards by their bits unless all but the sign is flipped.
                let bits = (n + 0.0).to_bits() as i64;
                Self::Number(bits ^ (((bits >> 63) as u64) >> 1) as i64)
            }
            Value::Str(text) => Self::Str(text.into()),
            compound @ (Value::Array(_) | Value::Object(_)) => {
                Self::Compound(compound.into_json().unwrap_or_default().to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    proptest! {
        #[test]
        fn group_keys_sort_like_numbers(a in -1e9..1e9_f64, b in -1e9..1e9_f64) {
            let order = GroupKey::new(Value::Number(a)).cmp(&GroupKey::new(Value::Number(b)));
            prop_assert_eq!(Some(order), a.partial_cmp(&b));
        }
    }

    #[test]
    fn equal_values_are_one_group() {
        let same = |a, b| GroupKey::new(a) == GroupKey::new(b);
        assert!(same(Value::Number(0.0), Value::Number(-0.0)));
        let (object, reordered, array) = (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), json!([1]));
        assert!(same(Value::from(&object), Value::from(&reordered)));
        assert!(!same(Value::from("1"), Value::Number(1.0)));
        assert!(!same(Value::Undefined, Value::Null));
        assert!(!same(Value::from("[1]"), Value::from(&array)));
    }
}
