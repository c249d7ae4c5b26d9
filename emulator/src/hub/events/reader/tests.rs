use super::*;
use hub_core::events::{DEFAULT_GROUP, Origin, Source};
use hub_core::ids::{DeviceId, Target};
use hub_core::property_bag::Bag;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::hub::HubState;

fn stream() -> Arc<EventStream> {
    HubState::for_tests().events.built_in().clone()
}

/// Appends an event of a device that is in the partition.
fn append(events: &EventStream, partition: usize, body: &[u8]) {
    let count = NonZeroUsize::new(events.slots.len()).unwrap();
    let device = (0..)
        .map(|n| DeviceId::parse(&format!("d{n}")).unwrap())
        .find(|id| hub_core::events::partition_of(id, count) == partition)
        .unwrap();
    let origin = Arc::new(Origin {
        target: Target::device(device),
        sender: None,
    });
    events.append(
        Source::Telemetry,
        &origin,
        &Bag::default(),
        body,
        events.clock.now(),
    );
}

fn bodies(events: &[Event]) -> Vec<&[u8]> {
    events.iter().map(|event| &*event.body).collect()
}

#[tokio::test]
async fn a_reader_gets_what_is_there_and_what_comes() {
    let events = stream();
    append(&events, 1, b"1");
    append(&events, 1, b"2");
    append(&events, 2, b"elsewhere");
    let mut all = events.open(DEFAULT_GROUP, 1, Start::Earliest, None).unwrap();
    let mut new = events.open("$default", 1, Start::Latest, None).unwrap();
    assert_eq!(bodies(&all.next(1).await.unwrap()), [b"1"]);
    assert_eq!(bodies(&all.next(10).await.unwrap()), [b"2"]);
    assert_eq!(all.take(10), Ok(Vec::new()));
    let waiting = tokio::spawn(async move { new.next(10).await });
    tokio::task::yield_now().await;
    append(&events, 1, b"3");
    assert_eq!(bodies(&waiting.await.unwrap().unwrap()), [b"3"]);
    assert_eq!(bodies(&all.take(10).unwrap()), [b"3"]);
    assert_eq!(all.partition_info().count, 3);
    // Whoever stops waiting has lost nothing.
    assert!(tokio::time::timeout(Duration::ZERO, all.next(1)).await.is_err());
    append(&events, 1, b"4");
    assert_eq!(bodies(&all.next(1).await.unwrap()), [b"4"]);
}

#[tokio::test]
async fn readers_find_out_that_they_have_lost_their_place() {
    let events = stream();
    events.create_consumer_group("mine").unwrap();
    let open = |group, epoch| events.open(group, 0, Start::Earliest, epoch);
    let mut plain = open(DEFAULT_GROUP, None).unwrap();
    let mut first = {
        let waiting = tokio::spawn(async move { plain.next(1).await });
        tokio::task::yield_now().await;
        let first = open(DEFAULT_GROUP, Some(1)).unwrap();
        assert_eq!(waiting.await.unwrap(), Err(ReadEnd::Stolen));
        first
    };
    let second = open(DEFAULT_GROUP, Some(2)).unwrap();
    assert_eq!(first.take(1), Err(ReadEnd::Stolen));
    drop(first);
    assert!(matches!(
        open(DEFAULT_GROUP, Some(1)),
        Err(OpenError::Attach(AttachError::LowerEpoch { .. }))
    ));
    drop(second);
    let mut last = open(DEFAULT_GROUP, Some(0)).unwrap();

    let mut mine = open("mine", None).unwrap();
    events.delete_consumer_group("Mine").unwrap();
    assert_eq!(mine.next(1).await, Err(ReadEnd::GroupDeleted));
    assert!(open("mine", None).is_err());

    append(&events, 0, b"1");
    events.clear();
    assert_eq!(last.next(1).await, Err(ReadEnd::Reset));
    // Its number is free again, and its end takes nobody's place away.
    let _new = open(DEFAULT_GROUP, Some(5)).unwrap();
    drop(last);
    assert!(open(DEFAULT_GROUP, None).is_err());
}

#[test]
fn a_start_must_exist() {
    let events = stream();
    let open = |partition, start| events.open(DEFAULT_GROUP, partition, start, None);
    assert_eq!(
        open(4, Start::Earliest).unwrap_err().to_string(),
        "there is no partition 4; the hub has 4, from 0"
    );
    let start = Start::Sequence {
        sequence: 7,
        inclusive: false,
    };
    assert_eq!(
        open(0, start).unwrap_err().to_string(),
        "The supplied sequence number '7' is invalid. The last sequence number in the system is '-1'"
    );
}

#[test]
fn positions_order_the_events_of_all_partitions() {
    let events = stream();
    for number in 0..2_500_u32 {
        append(&events, (number % 3) as usize, &number.to_be_bytes());
    }
    let positions = |after, max| -> Vec<u64> {
        let found = events.after_position(Source::Telemetry, after, max);
        found.iter().map(|event| event.position).collect()
    };
    assert_eq!(positions(0, 10_000), (1..=2_500).collect::<Vec<_>>());
    assert_eq!(positions(2_400, 5), (2_401..=2_405).collect::<Vec<_>>());
    assert_eq!(positions(2_500, 5), [0; 0]);
}
