use super::*;
use crate::hub::HubState;
use crate::hub::row::SectionsRow;
use hub_core::events::{DEFAULT_GROUP, Start};
use hub_core::ids::DeviceId;
use serde_json::json;

#[test]
fn an_event_that_no_route_takes_any_more_has_no_short_way() {
    let hub = HubState::for_tests();
    let origin = Arc::new(Origin {
        target: Target::device(DeviceId::parse("d").unwrap()),
        sender: None,
    });
    let now = hub.clock.now();
    let twin = Twin::new(now);
    let append = |source| {
        hub.events
            .append(source, &origin, &Bag::default(), b"", now, &SectionsRow(&twin));
    };
    // As if the routing had changed since the event was made.
    append(Source::TwinChange);
    append(Source::Telemetry);
    let kept: u64 = hub
        .events
        .built_in()
        .partitions()
        .iter()
        .map(|log| log.count)
        .sum();
    assert_eq!((kept, hub.counters.events_orphaned.get()), (1, 1));
}

#[test]
fn an_endpoint_ends_when_nobody_delivers_to_it_any_more() {
    let hub = HubState::for_tests();
    let set = |routing| {
        hub.events
            .set_routing(Routing::from_json(&routing).unwrap())
            .unwrap();
    };
    set(json!({"endpoints": {"streams": [{"name": "s"}]}}));
    let stream = hub.events.stream("s").unwrap();
    let open = || stream.open(DEFAULT_GROUP, 0, Start::Earliest, None);
    let reader = open().unwrap();
    let delivering = hub.events.routes();
    set(json!({}));
    assert_eq!(reader.end(), None);
    drop(delivering);
    assert_eq!(reader.end(), Some(ReadEnd::EndpointGone));
    // Nobody gets into what has ended.
    assert_eq!(open().unwrap_err(), OpenError::EndpointGone);
}
