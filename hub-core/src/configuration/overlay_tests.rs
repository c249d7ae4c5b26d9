//! The overlay in single cases, and against a naive model over sequences of
//! random changes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::ids::ConfigurationId;
use crate::time::Timestamp;
use crate::twin::{Twin, TwinPatch};

fn id(text: &str) -> ConfigurationId {
    ConfigurationId::parse(text).unwrap()
}

fn tree(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Settings of device contents, strongest first, with the statuses and the
/// desired properties that they lead to.
#[test]
fn the_stronger_configuration_wins_each_path() {
    use ConfigurationStatus::{Applied, Targeted};
    for (stack, statuses, expected) in [
        (
            vec![json!({"a": 1}), json!({"a": 2})],
            vec![Applied, Targeted],
            json!({"a": 1}),
        ),
        (
            vec![json!({"a": 1}), json!({"a": 2, "b": 3})],
            vec![Applied, Applied],
            json!({"a": 1, "b": 3}),
        ),
        (
            vec![json!({"o": {"x": 1}}), json!({"o": {"x": 2, "y": 2}})],
            vec![Applied, Applied],
            json!({"o": {"x": 1, "y": 2}}),
        ),
        (
            vec![json!({"o": {"x": 1}}), json!({"o": 5}), json!({"o": {"y": 2}})],
            vec![Applied, Targeted, Applied],
            json!({"o": {"x": 1, "y": 2}}),
        ),
        (
            vec![json!({"o": 5}), json!({"o": {"y": 2}})],
            vec![Applied, Targeted],
            json!({"o": 5}),
        ),
        (
            vec![json!({"l": [1]}), json!({"l": [2]})],
            vec![Applied, Targeted],
            json!({"l": [1]}),
        ),
        (vec![json!({})], vec![Applied], json!({})),
        (
            vec![json!({"o": {}}), json!({"o": {}})],
            vec![Applied, Targeted],
            json!({"o": {}}),
        ),
    ] {
        let parsed: Vec<_> = stack
            .iter()
            .enumerate()
            .map(|(n, tree)| (id(&n.to_string()), settings(tree)))
            .collect();
        let overlay = Overlay::of(parsed.iter().map(|(id, settings)| (id, settings)));
        let seen: Vec<_> = overlay.statuses().map(|(_, status)| status).collect();
        assert_eq!(seen, statuses, "{stack:?}");
        let patch = overlay
            .patch(&Overlay::default(), &Map::new())
            .unwrap_or_default();
        assert_eq!(Value::Object(patch), expected, "{stack:?}");
    }
}

fn settings(tree: &Value) -> Settings {
    let content = json!({"deviceContent": {"properties.desired": tree}});
    match Content::parse(&content).unwrap().settings() {
        ContentSettings::Device(settings) => settings.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_changes_is_written() {
    for (current, owned, wanted, patch) in [
        (json!({}), json!({}), json!({"a": 1}), json!({"a": 1})),
        (json!({"a": 1}), json!({}), json!({"a": 1}), json!({})),
        (
            json!({"a": 1, "b": 2}),
            json!({"a": 1}),
            json!({}),
            json!({"a": null}),
        ),
        // Overwritten since: it belongs to whoever did that.
        (json!({"a": 7}), json!({"a": 1}), json!({}), json!({})),
        // Removed since.
        (json!({}), json!({"a": 1}), json!({}), json!({})),
        (
            json!({"o": {"x": 1, "y": 2}}),
            json!({"o": {"x": 1}}),
            json!({}),
            json!({"o": {"x": null}}),
        ),
        (
            json!({"o": {"x": {"z": 1}}}),
            json!({"o": {"x": {"z": 1}}}),
            json!({}),
            json!({"o": null}),
        ),
        (json!({"o": {}}), json!({"o": {}}), json!({}), json!({"o": null})),
        (
            json!({"o": {"x": 1}}),
            json!({}),
            json!({"o": 5}),
            json!({"o": 5}),
        ),
        (
            json!({"o": 5}),
            json!({"o": 5}),
            json!({"o": {"x": 1}}),
            json!({"o": {"x": 1}}),
        ),
        (
            json!({"o": {"x": 1, "y": 1}}),
            json!({"o": {"x": 1}}),
            json!({"o": {"z": 1}}),
            json!({"o": {"x": null, "z": 1}}),
        ),
    ] {
        let found = difference(&tree(&current), &tree(&owned), &tree(&wanted));
        assert_eq!(Value::Object(found), patch, "{current} {owned} {wanted}");
    }
}

#[test]
fn a_refused_write_leaves_the_configurations_waiting() {
    let before = Overlay::of([(&id("a"), &settings(&json!({"a": 1})))]);
    let after = Overlay::of([(&id("b"), &settings(&json!({"b": 1})))]).refused(&before);
    assert_eq!(after.status("b"), Some(ConfigurationStatus::Targeted));
    // The next attempt still has to take back what `a` has set.
    let patch = Overlay::default().patch(&after, &tree(&json!({"a": 1}))).unwrap();
    assert_eq!(Value::Object(patch), json!({"a": null}));
    assert_eq!(
        serde_json::to_value(&after).unwrap(),
        json!({"b": {"status": "Targeted"}})
    );
}

#[test]
fn a_twin_that_takes_nothing_new_still_gives_up_what_no_longer_counts() {
    let set = json!({"a": 1, "b": 1, "o": {"x": 1, "y": 1}});
    let before = Overlay::of([(&id("a"), &settings(&set))]);
    let wanted = Overlay::of([(&id("b"), &settings(&json!({"b": 2, "c": 2, "o": {"y": 2}})))]);
    let reduced = wanted.reduced(&before);
    let patch = reduced.patch(&before, &tree(&set)).unwrap();
    assert_eq!(Value::Object(patch), json!({"a": null, "o": {"x": null}}));
    assert_eq!(reduced.status("b"), Some(ConfigurationStatus::Targeted));
    // What is left of the former settings goes with the configuration.
    let left = tree(&json!({"b": 1, "o": {"y": 1}}));
    let patch = Overlay::default().patch(&reduced, &left).unwrap();
    assert_eq!(Value::Object(patch), json!({"b": null, "o": null}));
}

type Leaves = BTreeMap<Vec<String>, (Value, Owner)>;

/// Who wrote a property of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Owner {
    User,
    Configurations,
}

/// A list of properties, each with its whole path: no tree, no patches.
#[derive(Debug, Default)]
struct Model(Leaves);

impl Model {
    fn user_writes(&mut self, tree: &Map<String, Value>) {
        for (path, value) in leaves(tree) {
            match self.0.get(&path) {
                // The same value again does not show whose it is.
                Some((known, _)) if *known == value => {}
                // A null below a value that is no object makes it one.
                _ if value.is_null() => self
                    .0
                    .retain(|known, _| !known.starts_with(&path) && !path.starts_with(known)),
                _ => self.put(path, value, Owner::User),
            }
        }
    }

    fn put(&mut self, path: Vec<String>, value: Value, owner: Owner) {
        self.0
            .retain(|known, _| !known.starts_with(&path) && !path.starts_with(known));
        self.0.insert(path, (value, owner));
    }

    fn run(&mut self, stack: &[&Value]) {
        let mut winners: BTreeMap<Vec<String>, Value> = BTreeMap::new();
        for tree in stack {
            for (path, value) in leaves(tree.as_object().unwrap()) {
                let free = |known: &Vec<String>| !known.starts_with(&path) && !path.starts_with(known);
                if winners.keys().all(free) {
                    winners.insert(path, value);
                }
            }
        }
        self.0.retain(|_, (_, owner)| *owner == Owner::User);
        for (path, value) in winners {
            self.put(path, value, Owner::Configurations);
        }
    }

    fn values(&self) -> BTreeMap<Vec<String>, Value> {
        self.0
            .iter()
            .map(|(path, (value, _))| (path.clone(), value.clone()))
            .collect()
    }
}

/// Every property that is no object, with its path.
fn leaves(tree: &Map<String, Value>) -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    for (key, value) in tree {
        match value {
            Value::Object(members) => found.extend(leaves(members).into_iter().map(|(mut path, value)| {
                path.insert(0, key.clone());
                (path, value)
            })),
            value => found.push((vec![key.clone()], value.clone())),
        }
    }
    found
}

/// One step of a random story.
#[derive(Debug, Clone)]
enum Step {
    /// Creates or replaces a configuration with this priority.
    Put(u8, u8, Value),
    Delete(u8),
    /// Changes which configurations select the twin.
    Select(u8),
    UserWrites(Value),
}

/// A small tree of few keys, so that configurations meet; no empty objects,
/// which a list of properties cannot show.
fn arb_tree(with_nulls: bool) -> impl Strategy<Value = Value> {
    let value = (0..4_i64).prop_map(move |n| {
        if with_nulls && n == 0 {
            Value::Null
        } else {
            json!(n)
        }
    });
    let leaf = prop_oneof![value, Just(json!([1]))];
    let tree = leaf.prop_recursive(2, 8, 3, |inner| {
        proptest::collection::btree_map("[ab]", inner, 1..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    proptest::collection::btree_map("[abc]", tree, 1..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn arb_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, 0..3_u8, arb_tree(false)).prop_map(|(id, priority, tree)| Step::Put(id, priority, tree)),
        1 => (0..4_u8).prop_map(Step::Delete),
        2 => any::<u8>().prop_map(Step::Select),
        2 => arb_tree(true).prop_map(Step::UserWrites),
    ]
}

proptest! {
    #[test]
    fn desired_properties_are_what_users_wrote_under_the_winners(
        steps in proptest::collection::vec(arb_step(), 1..20),
    ) {
        let mut twin = Twin::new(Timestamp::NEVER);
        let mut model = Model::default();
        let mut configurations: BTreeMap<u8, (u8, usize, Value)> = BTreeMap::new();
        let (mut selected, mut overlay) = (u8::MAX, Overlay::default());
        let write = |twin: &mut Twin, members: &Map<String, Value>| {
            let body = json!({"properties": {"desired": members}});
            twin.patch(&TwinPatch::from_json(&body).unwrap(), Timestamp::NEVER).unwrap();
        };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(id, priority, tree) => {
                    configurations.insert(id, (priority, number, tree));
                }
                Step::Delete(id) => {
                    configurations.remove(&id);
                }
                Step::Select(which) => selected = which,
                Step::UserWrites(members) => {
                    write(&mut twin, members.as_object().unwrap());
                    model.user_writes(members.as_object().unwrap());
                }
            }
            let mut stack: Vec<_> = configurations
                .iter()
                .filter(|(id, _)| selected & (1 << **id) != 0)
                .map(|(id, (priority, number, tree))| (*priority, *number, id, tree))
                .collect();
            stack.sort_by_key(|(priority, number, _, _)| std::cmp::Reverse((*priority, *number)));
            let parsed: Vec<_> = stack
                .iter()
                .map(|(_, _, name, tree)| (id(&name.to_string()), settings(tree)))
                .collect();
            let after = Overlay::of(parsed.iter().map(|(id, settings)| (id, settings)));
            if let Some(patch) = after.patch(&overlay, &twin.desired().properties().to_json()) {
                write(&mut twin, &patch);
            }
            overlay = after;
            let trees: Vec<&Value> = stack.iter().map(|(_, _, _, tree)| *tree).collect();
            model.run(&trees);
            let found: BTreeMap<_, _> = leaves(&twin.desired().properties().to_json()).into_iter().collect();
            prop_assert_eq!(found, model.values());
            // A second run finds nothing to do.
            prop_assert_eq!(overlay.patch(&overlay, &twin.desired().properties().to_json()), None);
        }
    }

    #[test]
    fn arbitrary_paths_never_panic(path in ".*", tree in arb_tree(true)) {
        let _ = Content::parse(&json!({"deviceContent": {path: tree}}));
    }
}
