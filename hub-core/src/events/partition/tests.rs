use super::*;
use crate::ids::Target;
use proptest::prelude::*;

fn origin() -> Arc<Origin> {
    Arc::new(Origin {
        target: Target::device(DeviceId::parse("d").unwrap()),
        sender: None,
    })
}

fn at(milliseconds: u64) -> Timestamp {
    Timestamp::from_unix_ticks(milliseconds as i64 * 10_000)
}

fn append(partition: &mut Partition, bag: &str, body: &[u8], milliseconds: u64) -> u64 {
    let draft = Draft {
        source: Source::Telemetry,
        position: 3 * partition.next + 1,
        origin: &origin(),
        bag: &Bag::parse(bag).unwrap(),
        body,
    };
    partition.append(&draft, at(milliseconds))
}

/// Every event from `from` on, in reads of `max`.
fn read_all(partition: &Partition, from: u64, max: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut next = from;
    loop {
        let batch = partition.read(next, max);
        match batch.next_sequence() {
            Some(after) => next = after,
            None => return events,
        }
        events.extend(batch.into_events());
    }
}

#[test]
fn a_new_partition_is_empty() {
    let partition = Partition::new(Retention::default());
    assert_eq!(
        partition.info(),
        PartitionInfo {
            begin_sequence: 0,
            last_sequence: None,
            last_offset: None,
            last_enqueued: None,
            count: 0,
            bytes: 0,
        }
    );
    assert!(partition.info().is_empty() && partition.read(0, 10).is_empty());
    assert_eq!(partition.locate(Start::Earliest), Ok(0));
    assert_eq!(partition.locate(Start::Latest), Ok(0));
    assert_eq!(
        partition.locate(Start::Sequence {
            sequence: 0,
            inclusive: true
        }),
        Ok(0)
    );
    let error = partition
        .locate(Start::Offset {
            offset: 0,
            inclusive: true,
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "The supplied offset '0' is invalid. The last offset in the system is '-1'"
    );
}

#[test]
fn time_does_not_go_back() {
    let mut partition = Partition::new(Retention::default());
    append(&mut partition, "", b"", 100);
    append(&mut partition, "", b"", 50);
    let events = read_all(&partition, 0, 10);
    assert_eq!([events[0].enqueued, events[1].enqueued], [at(100), at(100)]);
    assert!(
        events[0].offset < events[1].offset,
        "also of events without bytes"
    );
}

#[test]
fn an_event_larger_than_a_segment_is_kept() {
    let mut partition = Partition::new(Retention::default());
    let large = vec![7; 2 * SEGMENT_BYTES as usize];
    for body in [&b"a"[..], &large, b"b"] {
        append(&mut partition, "p=1", body, 1);
    }
    let bodies: Vec<_> = read_all(&partition, 0, 10).into_iter().map(|e| e.body).collect();
    assert_eq!(bodies, [&b"a"[..], &large, b"b"]);
}

#[test]
fn a_gap_shows_in_the_begin_and_is_skipped() {
    let mut partition = Partition::new(Retention {
        count: 3,
        ..Retention::default()
    });
    for _ in 0..10 {
        append(&mut partition, "", b"x", 1);
    }
    let info = partition.info();
    assert_eq!(
        (info.begin_sequence, info.last_sequence, info.count),
        (7, Some(9), 3)
    );
    assert_eq!(partition.read(2, 1).into_events()[0].sequence, 7);
    let mut partition = Partition::new(Retention {
        bytes: 0,
        ..Retention::default()
    });
    append(&mut partition, "", b"x", 1);
    let info = partition.info();
    assert_eq!(
        (info.begin_sequence, info.last_sequence, info.count),
        (1, Some(0), 0)
    );
}

#[test]
fn a_million_messages_of_200_bytes_fit() {
    // A tenth of them, to be quick.
    let mut partition = Partition::new(Retention::default());
    for _ in 0..100_000 {
        append(&mut partition, "%24.ct=application%2Fjson", &[b'x'; 200], 1);
    }
    let info = partition.info();
    assert_eq!(info.count, 100_000);
    let allocated: usize = partition
        .segments
        .iter()
        .map(|s| s.bytes.capacity() + s.entries.capacity() * size_of::<Entry>())
        .sum();
    assert!(allocated <= 30_000_000, "{allocated}");
    assert!(
        allocated as u64 <= info.bytes + 2 * SEGMENT_BYTES,
        "{allocated} {}",
        info.bytes
    );
}

#[test]
fn devices_spread_over_the_partitions_and_stay() {
    let four = NonZeroUsize::new(4).unwrap();
    let mut counts = [0; 4];
    for number in 0..10_000 {
        counts[partition_of(&DeviceId::parse(&format!("device-{number:05}")).unwrap(), four)] += 1;
    }
    assert!(
        counts.iter().all(|count| (2_200..2_800).contains(count)),
        "{counts:?}"
    );
    // Readers remember places in partitions from one run to the next.
    let of = |id| partition_of(&DeviceId::parse(id).unwrap(), four);
    assert_eq!(["d", "e", "my-device"].map(of), [3, 0, 1]);
}

/// What the log does, in the plainest way.
struct Model {
    retention: Retention,
    kept: Vec<Event>,
    next: u64,
    next_offset: u64,
    last: Option<Timestamp>,
}

impl Model {
    fn append(&mut self, bag: &str, body: &[u8], now: Timestamp) {
        let enqueued = self.last.map_or(now, |last| last.max(now));
        self.last = Some(enqueued);
        self.kept.push(Event {
            sequence: self.next,
            offset: self.next_offset,
            position: 3 * self.next + 1,
            enqueued,
            source: Source::Telemetry,
            origin: origin(),
            properties: MessageProperties::decode(bag).unwrap(),
            body: Bytes::copy_from_slice(body),
        });
        self.next += 1;
        self.next_offset += (bag.len() + body.len()) as u64 + ENTRY_BYTES;
        self.expire(enqueued);
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some(oldest) = self.kept.first()
            && (self.kept.len() > self.retention.count
                || self.next_offset - oldest.offset > self.retention.bytes as u64
                || now.saturating_since(oldest.enqueued) > self.retention.time)
        {
            self.kept.remove(0);
        }
    }

    fn first(&self, is_wanted: impl Fn(&Event) -> bool) -> u64 {
        self.kept
            .iter()
            .find(|event| is_wanted(event))
            .map_or(self.next, |event| event.sequence)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { body: usize, bag: usize, later: u64 },
    Expire { later: u64 },
    Read { from: u64, max: usize },
    Seek { value: u64, inclusive: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop_oneof![0..50_usize, 0..100_000_usize], 0..2000_usize, 0..5_u64)
            .prop_map(|(body, bag, later)| Step::Append { body, bag, later }),
        1 => (0..100_u64).prop_map(|later| Step::Expire { later }),
        2 => (0..60_u64, 0..20_usize).prop_map(|(from, max)| Step::Read { from, max }),
        2 => (0..60_u64, any::<bool>()).prop_map(|(value, inclusive)| Step::Seek { value, inclusive }),
    ]
}

proptest! {
    #[test]
    fn the_log_does_as_a_list_would(
        steps in proptest::collection::vec(step(), 1..60),
        time in 1..100_u64,
        bytes in prop_oneof![0..2_000_usize, 0..2_000_000_usize],
        count in prop_oneof![0..5_usize, 1..50_usize],
    ) {
        let retention = Retention { time: Duration::from_millis(time), bytes, count };
        let mut log = Partition::new(retention);
        let mut model = Model { retention, kept: Vec::new(), next: 0, next_offset: 0, last: None };
        let mut clock = 0;
        for step in steps {
            match step {
                Step::Append { body, bag, later } => {
                    clock += later;
                    let (bag, body) = (format!("k={}", "v".repeat(bag)), vec![b'b'; body]);
                    let sequence = append(&mut log, &bag, &body, clock);
                    prop_assert_eq!(sequence, model.next);
                    model.append(&bag, &body, at(clock));
                }
                Step::Expire { later } => {
                    clock += later;
                    log.expire(at(clock));
                    model.expire(at(clock));
                }
                Step::Read { from, max } => {
                    let batch = log.read(from, max);
                    let begin = from.max(model.first(|_| true));
                    let expected: Vec<_> =
                        model.kept.iter().filter(|e| e.sequence >= begin).take(max).cloned().collect();
                    let after = batch.next_sequence();
                    let events = batch.into_events();
                    // A read may stop early, at the end of a segment.
                    prop_assert_eq!(events.is_empty(), expected.is_empty());
                    prop_assert_eq!(after, events.last().map(|e| e.sequence + 1));
                    prop_assert_eq!(&events[..], &expected[..events.len()]);
                }
                Step::Seek { value, inclusive } => {
                    let wanted = |found: u64, value: u64| found > value || (inclusive && found == value);
                    let first = value + u64::from(!inclusive);
                    let expected = if first > model.next { None } else { Some(first.max(model.first(|_| true))) };
                    prop_assert_eq!(log.locate(Start::Sequence { sequence: value, inclusive }).ok(), expected);
                    let time = at(value);
                    let expected = model.first(|e| e.enqueued > time || (inclusive && e.enqueued == time));
                    prop_assert_eq!(log.locate(Start::EnqueuedTime { time, inclusive }), Ok(expected));
                    let offset = model.kept.get(value as usize).map_or(value * 100, |event| event.offset);
                    let found = log.locate(Start::Offset { offset, inclusive });
                    match log.info().last_offset {
                        Some(last) if offset <= last => {
                            prop_assert_eq!(found, Ok(model.first(|e| wanted(e.offset, offset))));
                        }
                        _ => prop_assert!(found.is_err()),
                    }
                    prop_assert_eq!(log.after_position(value), model.first(|e| e.position > value));
                }
            }
            let info = log.info();
            prop_assert_eq!(info.begin_sequence, model.first(|_| true));
            prop_assert_eq!(info.count, model.kept.len() as u64);
            prop_assert_eq!(info.bytes, model.kept.first().map_or(0, |e| model.next_offset - e.offset));
            prop_assert_eq!(info.last_sequence, model.next.checked_sub(1));
            prop_assert_eq!(info.last_enqueued, model.last);
            prop_assert_eq!(log.locate(Start::Earliest), Ok(info.begin_sequence));
            prop_assert_eq!(log.locate(Start::Latest), Ok(model.next));
            let all = read_all(&log, 0, 7);
            prop_assert_eq!(&all, &model.kept);
        }
    }
}
