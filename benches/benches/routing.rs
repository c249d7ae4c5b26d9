//! Message routing: what it costs to decide where a message goes.
//!
//! `properties` has ten routes on application and system properties, of which
//! one matches; `body` and `twin` have ten that look into these as well. The
//! messages have five application properties and content type and encoding, as
//! they arrive over MQTT. `default` is a hub without configuration. Elements
//! are messages.
//!
//! ```text
//! cargo bench -p benches --bench routing
//! ```

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hub_core::events::{AuthMethod, AuthScope, Origin, Sender, Source};
use hub_core::ids::{DeviceId, Target};
use hub_core::property_bag::Bag;
use hub_core::query::Row;
use hub_core::routing::{Message, Routing, SenderTwin};
use hub_core::time::Timestamp;
use serde_json::{Value, json};

const BAG: &str = "%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=4711&level=5&site=north&kind=telemetry\
                   &alert=false&batch=20";
const BODY: &[u8] = br#"{"temperature":21.5,"humidity":40,"location":{"building":"43","floor":3}}"#;

struct Twin(Value);

impl SenderTwin for Twin {
    fn look(&self, look: &mut dyn FnMut(&dyn Row)) {
        look(&self.0);
    }
}

/// Ten routes with the conditions in turn.
fn routing(conditions: &[&str]) -> Routing {
    let routes: Vec<Value> = (0..10)
        .map(|i| {
            json!({
                "name": format!("r{i}"),
                "source": "DeviceMessages",
                "condition": conditions[i % conditions.len()].replace('#', &i.to_string()),
                "endpointNames": ["s"],
            })
        })
        .collect();
    let value = json!({"endpoints": {"streams": [{"name": "s"}]}, "routes": routes, "fallbackRoute": {}});
    Routing::from_json(&value).expect("a legal configuration")
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("routing/decide");
    group.throughput(Throughput::Elements(1));
    let origin = Origin {
        target: Target::device(DeviceId::parse("device-1").expect("a legal id")),
        sender: Some(Sender {
            generation_id: "1".into(),
            auth: AuthMethod::Sas(AuthScope::Device),
            model_id: None,
        }),
    };
    let bag = Bag::parse(BAG).expect("a legal bag");
    let twin = Twin(json!({"tags": {"site": "north"}}));
    let message = Message {
        source: Source::Telemetry,
        origin: &origin,
        bag: &bag,
        body: BODY,
        enqueued: Timestamp::from_unix_seconds(1_700_000_000),
        twin: Some(&twin),
    };
    for (name, routing, matching) in [
        ("default", Routing::default(), 0),
        (
            "properties",
            routing(&[
                "level = '#'",
                "site = 'south' AND level = '#'",
                "$contentType = 'text/plain'",
                "kind = 'telemetry' AND alert = 'true'",
                "$connectionDeviceId = 'device-#'",
            ]),
            1,
        ),
        ("body", routing(&["$body.temperature > 2#"]), 2),
        ("twin", routing(&["$twin.tags.site = 'north'"]), 10),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let decision = routing.decide(black_box(&message));
                assert_eq!(decision.routes.len(), matching);
                decision
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
