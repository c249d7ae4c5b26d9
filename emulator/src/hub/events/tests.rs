use super::*;
use crate::hub::HubState;
use crate::hub::row::SectionsRow;
use hub_core::ids::DeviceId;

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
