//! Queries through indexes give what a naive evaluation of all twins gives.

use std::sync::Arc;
use std::time::Duration;

use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::query::{Query, Row, Source};
use hub_core::registry::{DeviceSpec, IfMatch, ModuleSpec};
use hub_core::time::Timestamp;
use hub_core::twin::{ReportedPatch, TwinPatch};
use job_service::Clock;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::index::{Indexes, Worth};
use super::super::lock::Views;
use super::super::twins::{TwinWrite, twin_document};
use super::super::{HubSettings, HubState};
use super::{NoIndex, Plan};

/// A hub in which every equality gets an index at once.
pub(super) fn hub(worth: Worth) -> HubState {
    let mut hub = HubState::new(settings(Duration::ZERO), Clock::manual(Timestamp::NEVER));
    hub.views = Arc::new(Views {
        indexes: Arc::new(Indexes::new(worth)),
        ..Views::default()
    });
    hub
}

fn settings(query_lag: Duration) -> HubSettings {
    HubSettings {
        query_lag,
        ..HubSettings::for_tests()
    }
}

pub(super) const AT_ONCE: Worth = Worth {
    devices: 0,
    scans: 1,
    one_of: 1,
};

/// Something that happens to the hub between two pages.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Create(u8),
    Delete(u8),
    CreateModule(u8, u8),
    DeleteModule(u8, u8),
    Disable(u8, bool),
    /// A value, or null, for a key of tags, desired and reported properties of
    /// a device or one of its modules.
    Write(u8, Option<u8>, &'static str, &'static str, Value),
    Reset,
}

pub(super) fn device(n: u8) -> DeviceId {
    DeviceId::parse(&format!("d{n}")).unwrap()
}

fn module(n: u8) -> ModuleId {
    ModuleId::parse(&format!("m{n}")).unwrap()
}

impl Event {
    /// Lets it happen, if it is possible.
    pub(super) fn happen(&self, hub: &HubState) {
        let put = |n: u8, body: &Value, if_match: &IfMatch| {
            let spec = DeviceSpec::from_json(body, &device(n)).unwrap();
            let _ = hub.put_device(spec, if_match, |_, _| ());
        };
        match self {
            Self::Create(n) => put(*n, &json!({}), &IfMatch::Absent),
            Self::Disable(n, off) => {
                let status = if *off { "disabled" } else { "enabled" };
                put(*n, &json!({ "status": status }), &IfMatch::Any);
            }
            Self::Delete(n) => {
                let _ = hub.delete_device(&device(*n), &IfMatch::Any);
            }
            Self::CreateModule(n, m) => {
                let spec = ModuleSpec::from_json(&json!({}), &device(*n), &module(*m)).unwrap();
                let _ = hub.put_module(spec, &IfMatch::Absent, |_, _| ());
            }
            Self::DeleteModule(n, m) => {
                let _ = hub.delete_module(&device(*n), &module(*m), &IfMatch::Any);
            }
            Self::Write(n, m, section, key, value) => {
                let target = Target {
                    device: device(*n),
                    module: m.map(module),
                };
                if *section == "reported" {
                    let patch = json!({ *key: value }).to_string();
                    let patch = ReportedPatch::parse(patch.as_bytes()).unwrap();
                    if let Some(cell) = hub.registry.find(&target.device)
                        && let Ok(endpoint) = cell.lock().endpoint(target.module.as_ref())
                    {
                        endpoint
                            .twin
                            .patch_reported(&patch, None, Timestamp::NEVER)
                            .unwrap();
                    }
                    return;
                }
                let patch = match *section {
                    "tags" => json!({"tags": {*key: value}}),
                    _ => json!({"properties": {"desired": {*key: value}}}),
                };
                let patch = TwinPatch::from_json(&patch).unwrap();
                let _ = hub.write_twin(&target, TwinWrite::Merge, &patch, &IfMatch::Any);
            }
            Self::Reset => hub.reset(),
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let n = || 0_u8..30;
    let value = prop::sample::select(vec![
        json!(null),
        json!(1),
        json!(2),
        json!("1"),
        json!(true),
        json!(0),
        json!([1]),
        json!({"b": 1}),
        json!({"b": "x"}),
    ]);
    let section = prop::sample::select(vec!["tags", "desired", "reported"]);
    let key = prop::sample::select(vec!["a", "b"]);
    let of = prop_oneof![2 => Just(None), 1 => (0_u8..3).prop_map(Some)];
    prop_oneof![
        40 => (n(), of, section, key, value).prop_map(|(n, m, s, k, v)| Event::Write(n, m, s, k, v)),
        20 => n().prop_map(Event::Create),
        8 => n().prop_map(Event::Delete),
        10 => (n(), 0_u8..3).prop_map(|(n, m)| Event::CreateModule(n, m)),
        4 => (n(), 0_u8..3).prop_map(|(n, m)| Event::DeleteModule(n, m)),
        5 => (n(), prop::bool::ANY).prop_map(|(n, off)| Event::Disable(n, off)),
        1 => Just(Event::Reset),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    let term = prop::sample::select(vec![
        "tags.a = 1",
        "tags.a IN [1, '1', true]",
        "'1' = properties.reported.a",
        "properties.desired.a = 0",
        "properties.desired.a.b IN [1, 'x', null]",
        "tags.b",
        "tags.b.b = 1",
        "status = 'disabled'",
        "moduleId = 'm1'",
        "properties.reported.b IN [2, 1]",
        "NOT tags.a = 2",
        "properties.desired.b >= 1",
        "is_defined(tags.b)",
        "deviceId IN ['d1', 'd2', 'd3', 'd11']",
        "tags.a = undefined",
    ]);
    let joined = (
        prop::collection::vec(term, 1..4),
        prop::sample::select(vec![" AND ", " OR "]),
    )
        .prop_map(|(terms, operator)| format!("({})", terms.join(operator)));
    (
        prop::collection::vec(joined, 1..3),
        prop::sample::select(vec![" AND ", " OR "]),
    )
        .prop_map(|(terms, operator)| terms.join(operator))
}

/// Every row of a collection in order, as the JSON that the service would send.
pub(super) fn rows(hub: &HubState, source: Source) -> Vec<(Target, Value)> {
    let mut rows = Vec::new();
    for id in hub.registry.devices_after(None, 1000) {
        let cell = hub.registry.find(&id).unwrap();
        let state = cell.lock();
        let targets: Vec<Target> = match source {
            Source::Devices => vec![Target::device(id)],
            _ => state
                .modules
                .keys()
                .map(|module| Target {
                    device: id.clone(),
                    module: Some(module.clone()),
                })
                .collect(),
        };
        for target in targets {
            let row = serde_json::to_value(twin_document(&state, &target).unwrap()).unwrap();
            rows.push((target, row));
        }
    }
    rows
}

/// Runs a query page by page, with the events of one step before each page, and
/// compares each page with what a naive evaluation says at that moment.
async fn check(hub: &HubState, text: &str, size: usize, steps: &[Vec<Event>]) {
    let query = Query::parse(text).unwrap();
    let (mut token, mut last): (Option<String>, Option<Target>) = (None, None);
    for events in steps {
        events.iter().for_each(|event| event.happen(hub));
        let page = hub
            .query_page(text, &query, size, token.as_deref())
            .await
            .unwrap();
        let found: Value = serde_json::from_slice(&page.body).unwrap();
        let matching: Vec<_> = rows(hub, query.source())
            .into_iter()
            .filter(|(target, row)| {
                query.matches(row as &dyn Row) && last.as_ref().is_none_or(|l| target > l)
            })
            .collect();
        let expected: Vec<&Value> = matching.iter().take(size).map(|(_, row)| row).collect();
        assert_eq!(found, json!(expected), "{text}");
        assert_eq!(page.continuation.is_some(), matching.len() > size, "{text}");
        let Some(next) = page.continuation else { return };
        token = Some(next);
        last = matching.get(size - 1).map(|(target, _)| target.clone());
    }
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn indexes_find_what_a_scan_finds(
        start in prop::collection::vec(event(), 0..120),
        queries in prop::collection::vec((condition(), prop::bool::ANY, 1_usize..6, prop::collection::vec(prop::collection::vec(event(), 0..4), 1..12)), 1..5),
    ) {
        let hub = hub(AT_ONCE);
        start.iter().for_each(|event| event.happen(&hub));
        block_on(async {
            // Twice, since the first one may build the index.
            for (condition, of_modules, size, steps) in queries.iter().chain(&queries) {
                let source = if *of_modules { "devices.modules" } else { "devices" };
                check(&hub, &format!("SELECT * FROM {source} WHERE {condition}"), *size, steps).await;
            }
        });
    }
}

fn with_tags(count: u8, tag: impl Fn(u8) -> Value, worth: Worth) -> HubState {
    let hub = hub(worth);
    for n in 0..count {
        Event::Create(n).happen(&hub);
        Event::Write(n, None, "tags", "a", tag(n)).happen(&hub);
    }
    hub
}

async fn run(hub: &HubState, condition: &str) -> usize {
    let query = Query::from_condition(condition).unwrap();
    hub.matching_targets(&query).await.unwrap().len()
}

fn plan(hub: &HubState, condition: &str) -> Result<usize, NoIndex> {
    match hub.existing_plan(&Query::from_condition(condition).unwrap()) {
        Plan::Devices(ids) => Ok(ids.len()),
        Plan::Index(lookup) => Ok(lookup.candidates),
        Plan::Scan(reason) => Err(reason),
    }
}

#[test]
fn a_path_gets_its_index_when_it_is_asked_for_again_and_again() {
    let worth = Worth {
        devices: 100,
        scans: 3,
        one_of: 4,
    };
    let hub = with_tags(100, |n| json!(n % 10), worth);
    block_on(async {
        assert_eq!(plan(&hub, "tags.a > 1"), Err(NoIndex::NoEquality));
        for _ in 0..2 {
            assert_eq!(run(&hub, "tags.a = 3").await, 10);
            assert_eq!(plan(&hub, "tags.a = 3"), Err(NoIndex::NotAskedOften));
        }
        // Whatever the value.
        assert_eq!(run(&hub, "tags.a = 4").await, 10);
        assert_eq!(plan(&hub, "tags.a = 3"), Ok(10));
        assert_eq!(plan(&hub, "tags.a = 3 AND status = 'enabled'"), Ok(10));
        assert_eq!(plan(&hub, "tags.a IN [1, 2]"), Ok(20));
        assert_eq!(plan(&hub, "tags.a IN [1, 2, 3]"), Err(NoIndex::TooManyCandidates));
        assert_eq!(plan(&hub, "deviceId = 'd1' AND tags.a = 3"), Ok(1));
        Event::Delete(3).happen(&hub);
        assert_eq!(plan(&hub, "tags.a = 3"), Ok(9));
        assert_eq!(run(&hub, "tags.a = 3").await, 9);
        assert_eq!(plan(&hub, "tags.z = 3"), Err(NoIndex::FewDevices));
    });
}

#[test]
fn indexes_are_few_and_the_least_used_one_goes() {
    let hub = with_tags(20, |n| json!(n), AT_ONCE);
    block_on(async {
        run(&hub, "tags.a = 1").await;
        for n in 0..40 {
            run(&hub, &format!("tags.x{n} = 1")).await;
            run(&hub, "tags.a = 1").await;
        }
    });
    assert_eq!(plan(&hub, "tags.a = 1"), Ok(1));
    assert_eq!(plan(&hub, "tags.x39 = 1"), Ok(0));
    assert_eq!(plan(&hub, "tags.x0 = 1"), Err(NoIndex::NotAskedOften));
    hub.reset();
    assert_eq!(plan(&hub, "tags.a = 1"), Err(NoIndex::NotAskedOften));
}

#[test]
fn a_build_that_is_given_up_leaves_no_index() {
    let hub = with_tags(20, |n| json!(n), AT_ONCE);
    {
        let query = Query::from_condition("tags.a = 1").unwrap();
        let build = std::pin::pin!(hub.matching_targets(&query));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        // The first chunk has been filed, then another task has its turn.
        assert!(build.poll(&mut context).is_pending());
        assert!(hub.views.indexes.exist());
    }
    assert!(!hub.views.indexes.exist());
    assert_eq!(block_on(run(&hub, "tags.a = 1")), 1);
    assert_eq!(plan(&hub, "tags.a = 1"), Ok(1));
}

#[test]
fn queries_lag_behind_by_choice() {
    const MINUTE: Duration = Duration::from_secs(60);
    let hub = HubState::new(settings(MINUTE), Clock::manual(Timestamp::from_unix_seconds(0)));
    let pass = |seconds| hub.clock.advance(Duration::from_secs(seconds));
    let found = |condition: &str| {
        let query = Query::from_condition(condition).unwrap();
        let targets = block_on(hub.matching_targets(&query)).unwrap();
        targets.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    Event::Create(1).happen(&hub);
    assert_eq!(found("*"), none);
    assert_eq!(found("deviceId = 'd1'"), none);
    pass(59);
    assert_eq!(found("*"), none);
    pass(1);
    assert_eq!(found("*"), ["d1"]);
    // Values are old ones, one after the other.
    let write = |value| Event::Write(1, None, "tags", "a", json!(value)).happen(&hub);
    write(1);
    assert_eq!(found("tags.a = 1"), none);
    pass(20);
    write(2);
    pass(40);
    assert_eq!(found("tags.a = 1"), ["d1"]);
    assert_eq!(found("tags.a = 2"), none);
    // A deleted device lingers, whether or not there is a new one.
    Event::Delete(1).happen(&hub);
    Event::CreateModule(1, 1).happen(&hub);
    pass(20);
    Event::Create(1).happen(&hub);
    Event::Create(2).happen(&hub);
    assert_eq!(found("tags.a = 2"), ["d1"]);
    assert_eq!(found("deviceId IN ['d1', 'd2']"), ["d1"]);
    pass(39);
    assert_eq!(found("*"), ["d1"]);
    pass(1);
    assert_eq!(found("*"), none);
    pass(20);
    assert_eq!(found("*"), ["d1", "d2"]);
    assert_eq!(found("is_defined(tags.a)"), none);
    assert_eq!(plan(&hub, "tags.a = 1"), Err(NoIndex::Lag));
}

#[test]
fn the_past_of_a_device_is_bounded() {
    let hub = HubState::new(
        settings(Duration::from_secs(60)),
        Clock::manual(Timestamp::from_unix_seconds(0)),
    );
    Event::Create(1).happen(&hub);
    for n in 0..1000 {
        Event::Write(1, None, "tags", "a", json!(n)).happen(&hub);
        hub.clock.advance(Duration::from_millis(500));
        let cell = hub.registry.find(&device(1)).unwrap();
        assert!(cell.lock().past.len() <= 17);
    }
}
