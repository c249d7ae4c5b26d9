//! Indexes while several threads change devices and others query.
//!
//! Some devices never change: at any time a query finds exactly those of them
//! that it should. When everything has come to rest, it finds exactly what a
//! naive evaluation finds.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hub_core::ids::Target;
use hub_core::query::{Query, Row};
use serde_json::{Value, json};

use super::super::HubState;
use super::Plan;
use super::tests::{AT_ONCE, Event, block_on, device, hub, rows};

/// Devices that come, change and go.
const RESTLESS: u8 = 40;
/// Numbers of those that do not.
const STEADY: std::ops::Range<u8> = 200..230;
const WRITERS: u64 = 3;
const EVENTS: usize = 600;

const QUERIES: [&str; 8] = [
    "SELECT * FROM devices WHERE tags.a = 1",
    "SELECT * FROM devices WHERE tags.a IN [0, 2, 'x']",
    "SELECT * FROM devices WHERE properties.desired.a = 2 AND tags.a >= 0",
    "SELECT * FROM devices WHERE properties.reported.a = 3",
    "SELECT * FROM devices WHERE status = 'disabled' OR status = 'enabled'",
    "SELECT * FROM devices WHERE tags.a = 3 OR tags.a = 1 AND properties.reported.a = 1",
    "SELECT * FROM devices.modules WHERE tags.a = 1",
    "SELECT * FROM devices.modules WHERE moduleId = 'm1' AND properties.reported.a IN [0, 1]",
];

/// Numbers that look random, the same in every run of the test.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn event(&mut self) -> Event {
        let n = u8::try_from(self.below(RESTLESS.into())).unwrap();
        let module = u8::try_from(self.below(3)).unwrap();
        match self.below(20) {
            0..=3 => Event::Create(n),
            4 => Event::Delete(n),
            5..=6 => Event::CreateModule(n, module),
            7 => Event::DeleteModule(n, module),
            8 => Event::Disable(n, self.below(2) == 0),
            _ => self.write(n, module),
        }
    }

    fn write(&mut self, n: u8, module: u8) -> Event {
        let of = (self.below(3) == 0).then_some(module);
        let section = ["tags", "desired", "reported"][usize::try_from(self.below(3)).unwrap()];
        let value = match self.below(5) {
            4 => Value::Null,
            value => json!(value),
        };
        Event::Write(n, of, section, "a", value)
    }
}

fn steady_hub() -> HubState {
    let hub = hub(AT_ONCE);
    for n in STEADY {
        let value = || json!(n % 4);
        Event::Create(n).happen(&hub);
        Event::CreateModule(n, 1).happen(&hub);
        for of in [None, Some(1)] {
            for section in ["tags", "desired", "reported"] {
                Event::Write(n, of, section, "a", value()).happen(&hub);
            }
        }
    }
    hub
}

fn is_steady(target: &Target) -> bool {
    STEADY.map(device).any(|id| id == target.device)
}

/// What a naive evaluation of every twin finds.
fn naive(hub: &HubState, query: &Query) -> BTreeSet<Target> {
    let all = rows(hub, query.source()).into_iter();
    all.filter(|(_, row)| query.matches(row as &dyn Row))
        .map(|(target, _)| target)
        .collect()
}

/// What the hub finds, page by page. Each row must meet the condition as it came
/// out, and come out once and in order.
async fn paged(hub: &HubState, text: &str, size: usize) -> BTreeSet<Target> {
    let query = Query::parse(text).unwrap();
    let (mut token, mut found) = (None::<String>, Vec::new());
    loop {
        let page = hub.query_page(text, &query, size, token.as_deref()).await;
        let page = page.unwrap();
        let Value::Array(rows) = serde_json::from_slice(&page.body).unwrap() else {
            panic!("no array");
        };
        for row in &rows {
            assert!(query.matches(row as &dyn Row), "{text}: {row}");
            let member = |name: &str| row.get(name).and_then(Value::as_str);
            found.push(Target {
                device: hub_core::ids::DeviceId::parse(member("deviceId").unwrap()).unwrap(),
                module: member("moduleId").map(|id| hub_core::ids::ModuleId::parse(id).unwrap()),
            });
        }
        token = page.continuation;
        if token.is_none() {
            break;
        }
    }
    assert!(
        found.windows(2).all(|pair| pair[0] < pair[1]),
        "{text}: {found:?}"
    );
    found.into_iter().collect()
}

#[test]
fn indexes_stay_right_while_threads_change_devices() {
    let hub = steady_hub();
    let expected = QUERIES.map(|text| naive(&hub, &Query::parse(text).unwrap()));
    assert!(expected.iter().all(|targets| targets.iter().all(is_steady)));
    let (busy, by_index) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|seed| {
                let hub = &hub;
                scope.spawn(move || {
                    let mut numbers = Numbers(seed + 1);
                    (0..EVENTS).for_each(|_| numbers.event().happen(hub));
                })
            })
            .collect();
        for reader in 0..2_u64 {
            let (hub, expected, busy, by_index) = (&hub, &expected, &busy, &by_index);
            scope.spawn(move || {
                let mut numbers = Numbers(100 + reader);
                let mut round = 0;
                while busy.load(Ordering::Relaxed) || round < 3 * QUERIES.len() {
                    let which = round % QUERIES.len();
                    round += 1;
                    let size = usize::try_from(2 + numbers.below(30)).unwrap();
                    let found = block_on(paged(hub, QUERIES[which], size));
                    let steady: BTreeSet<Target> = found.into_iter().filter(is_steady).collect();
                    assert_eq!(steady, expected[which], "{}", QUERIES[which]);
                    let query = Query::parse(QUERIES[which]).unwrap();
                    let answers = matches!(hub.existing_plan(&query), Plan::Index(_));
                    by_index.fetch_add(answers.into(), Ordering::Relaxed);
                    match numbers.below(16) {
                        // Indexes are built and given up all the time, too.
                        0 => hub.views.indexes.clear(),
                        1 => {
                            let other = format!("tags.x{} = 1", numbers.below(40));
                            let query = Query::from_condition(&other).unwrap();
                            assert_eq!(block_on(hub.matching_targets(&query)).unwrap(), []);
                        }
                        _ => {}
                    }
                }
            });
        }
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        busy.store(false, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert!(by_index.into_inner() > 0, "no query was answered by an index");
    for text in QUERIES {
        let query = Query::parse(text).unwrap();
        let expected = naive(&hub, &query);
        // By the index as the threads have left it, then by one from scratch.
        assert_eq!(block_on(paged(&hub, text, 10)), expected, "{text}");
        assert!(matches!(hub.existing_plan(&query), Plan::Index(_)), "{text}");
        hub.views.indexes.clear();
        assert_eq!(block_on(paged(&hub, text, 10)), expected, "{text}");
    }
}
