//! Tables for single rules, and the queue against a model that looks at every
//! second by itself.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{DeviceId, ModuleId};

fn target() -> Target {
    Target::device(DeviceId::parse("d").unwrap())
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(1_767_322_000).saturating_add(Duration::from_secs(seconds))
}

fn properties(system: &[(SystemProperty, &str)]) -> MessageProperties {
    MessageProperties {
        system: system.iter().map(|(p, v)| (*p, (*v).to_owned())).collect(),
        application: BTreeMap::new(),
    }
}

fn draft(system: &[(SystemProperty, &str)]) -> Result<Draft, ServiceError> {
    Draft::new(properties(system), Bytes::from_static(b"body"))
}

fn token(n: u64) -> LockToken {
    LockToken((u128::from(n) << 64) | 0xabc)
}

fn enqueue(queue: &mut Queue, system: &[(SystemProperty, &str)], now: u64) -> Result<u64, ServiceError> {
    let draft = draft(system)?;
    queue.enqueue(draft, &target(), &Settings::default(), at(now), &mut Vec::new())
}

#[test]
fn drafts_are_checked() {
    use SystemProperty::{Ack as Wish, Expiry, MessageId};
    let code = |system: &[(SystemProperty, &str)]| draft(system).map_err(|e| e.code).err();
    assert_eq!(code(&[]), None);
    assert_eq!(
        code(&[(Wish, "FULL"), (Expiry, "2026-01-02T03:04:05+01:00")]),
        None
    );
    assert_eq!(code(&[(Wish, ""), (Expiry, "")]), None);
    assert_eq!(code(&[(Wish, "yes")]), Some(ErrorCode::ArgumentInvalid));
    assert_eq!(code(&[(Expiry, "tomorrow")]), Some(ErrorCode::ArgumentInvalid));
    assert_eq!(code(&[(MessageId, &"é".repeat(128))]), None);
    assert_eq!(
        code(&[(MessageId, &"x".repeat(129))]),
        Some(ErrorCode::ArgumentInvalid)
    );
}

#[test]
fn a_message_has_64_kilobytes_and_its_properties_fit_in_a_topic() {
    let result = |body: usize, properties: MessageProperties| {
        Draft::new(properties, Bytes::from(vec![0; body]))
            .map_err(|e| e.code)
            .err()
    };
    let named = |name: &str, value: String| MessageProperties {
        application: BTreeMap::from([(name.to_owned(), value)]),
        ..MessageProperties::default()
    };
    let too_large = Some(ErrorCode::MessageTooLarge);
    assert_eq!(result(65_536, MessageProperties::default()), None);
    assert_eq!(result(65_537, MessageProperties::default()), too_large);
    assert_eq!(result(65_530, named("abc", "def".into())), None);
    assert_eq!(result(65_530, named("abc", "defg".into())), too_large);
    assert_eq!(result(0, named("a", "x".repeat(63_998))), None);
    assert_eq!(result(0, named("a", "x".repeat(63_999))), too_large);
    // Each of these takes three characters in a topic.
    assert_eq!(result(0, named("a", "/".repeat(21_332))), None);
    assert_eq!(result(0, named("a", "/".repeat(21_333))), too_large);
    let many = (0..20_000).map(|n| (n.to_string(), String::new())).collect();
    let many = MessageProperties {
        application: many,
        ..MessageProperties::default()
    };
    assert_eq!(result(0, many), too_large);
}

#[test]
fn an_expiry_lies_within_two_days() {
    for (expiry, code) in [
        (0, Some(ErrorCode::InvalidMessageExpiryTime)),
        (1, None),
        (2 * 24 * 3600, None),
        (2 * 24 * 3600 + 1, Some(ErrorCode::InvalidMessageExpiryTime)),
    ] {
        let system = [(SystemProperty::Expiry, &*at(expiry).to_string())];
        let result = enqueue(&mut Queue::default(), &system, 0);
        assert_eq!(result.map_err(|e| e.code).err(), code, "{expiry}");
    }
}

#[test]
fn the_51st_message_is_refused_whether_the_others_wait_or_are_held() {
    let mut queue = Queue::default();
    for n in 1..=50 {
        assert_eq!(enqueue(&mut queue, &[], 0), Ok(n));
    }
    let mut ended = Vec::new();
    queue
        .take(Holder::ANYONE, token(1), |_| true, at(0), &mut ended)
        .unwrap();
    let full = enqueue(&mut queue, &[], 0).unwrap_err();
    assert_eq!(full.code, ErrorCode::DeviceMaximumQueueDepthExceeded);
    let settings = Settings::default();
    queue
        .settle(token(1), Settlement::Complete, &settings, at(0), &mut ended)
        .unwrap();
    assert_eq!(enqueue(&mut queue, &[], 0), Ok(51));
    assert_eq!((queue.len(), ended.len()), (50, 1));
}

#[test]
fn the_receiver_is_always_named() {
    let module = Target {
        module: Some(ModuleId::parse("m").unwrap()),
        ..target()
    };
    for (target, given, expected) in [
        (target(), None, "/devices/d/messages/devicebound"),
        (module, None, "/devices/d/modules/m/messages/devicebound"),
        (
            target(),
            Some("/devices/d/messages/deviceBound"),
            "/devices/d/messages/deviceBound",
        ),
    ] {
        let given: Vec<_> = given.map(|to| (SystemProperty::To, to)).into_iter().collect();
        let (mut queue, mut ended) = (Queue::default(), Vec::new());
        let draft = draft(&given).unwrap();
        queue
            .enqueue(draft, &target, &Settings::default(), at(0), &mut ended)
            .unwrap();
        let delivery = queue
            .take(Holder::ANYONE, token(1), |_| true, at(0), &mut ended)
            .unwrap();
        assert_eq!(delivery.message.properties.system[&SystemProperty::To], expected);
    }
}

#[test]
fn tokens_are_read_as_clients_return_them() {
    let token = LockToken::from_bytes(*b"0123456789abcdef");
    let text = token.to_string();
    assert_eq!(text, "30313233-3435-3637-3839-616263646566");
    assert_eq!(token.to_bytes(), *b"0123456789abcdef");
    for good in [text.clone(), format!("\"{text}\""), text.to_uppercase()] {
        assert_eq!(LockToken::parse(&good), Ok(token), "{good}");
    }
    for bad in [
        "",
        "\"",
        "x",
        &text[1..],
        &text.replace('-', ""),
        &text.replace('3', "+"),
        &text.replace('3', "é"),
    ] {
        let error = LockToken::parse(bad).unwrap_err();
        assert_eq!(error.code, ErrorCode::DeviceMessageLockLost, "{bad}");
    }
}

#[test]
fn feedback_goes_to_those_who_asked() {
    use Outcome::{DeliveryCountExceeded, Expired, Purged, Rejected, Success};
    for outcome in [Success, Rejected, Expired, DeliveryCountExceeded, Purged] {
        let asked = [Ack::None, Ack::Positive, Ack::Negative, Ack::Full].map(|ack| ack.asks_for(outcome));
        let success = outcome == Success;
        assert_eq!(asked, [false, success, !success, true], "{outcome:?}");
    }
}

mod feedback {
    use super::*;

    fn record(n: usize) -> FeedbackRecord {
        FeedbackRecord {
            target: Target::device(DeviceId::parse(&format!("d{}", n % 2)).unwrap()),
            generation: "g".into(),
            message_id: n.to_string().into(),
            outcome: Outcome::Success,
            time: at(0),
        }
    }

    fn filled(records: usize, settings: FeedbackSettings) -> FeedbackQueue {
        let mut queue = FeedbackQueue::new(settings);
        for n in 0..records {
            queue.push(record(n), at(0));
        }
        queue
    }

    fn lengths(queue: &mut FeedbackQueue, now: u64) -> Vec<usize> {
        (0..)
            .map_while(|n| queue.take(token(1000 + n), at(now)))
            .map(|batch| batch.records.len())
            .collect()
    }

    #[test]
    fn a_record_reads_as_the_service_writes_it() {
        let json = serde_json::to_value(record(7)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "originalMessageId": "7", "description": "Success", "statusCode": "Success",
                "deviceGenerationId": "g", "deviceId": "d1", "enqueuedTimeUtc": at(0).to_string(),
            })
        );
    }

    #[test]
    fn batches_are_released_when_full_or_after_the_delay() {
        assert_eq!(
            lengths(&mut filled(130, FeedbackSettings::default()), 0),
            [64, 64, 2]
        );
        let delay = FeedbackSettings {
            delay: Duration::from_secs(15),
            ..FeedbackSettings::default()
        };
        let mut queue = filled(65, delay);
        assert_eq!(lengths(&mut queue, 14), [64]);
        assert_eq!(lengths(&mut queue, 15), [1]);
        assert!(lengths(&mut FeedbackQueue::new(delay), 100).is_empty());
    }

    #[test]
    fn a_batch_is_held_completed_and_abandoned() {
        let mut queue = filled(1, FeedbackSettings::default());
        let first = queue.take(token(1), at(0)).unwrap();
        assert_eq!(queue.take(token(2), at(59)), None);
        // The lock is over: that is not counted.
        for n in 2..20 {
            assert!(queue.take(token(n), at(60 * (n - 1))).is_some());
        }
        let lost = queue.complete(first.token, at(1100)).unwrap_err();
        assert_eq!(lost.code, ErrorCode::DeviceMessageLockLost);
        for n in 30..40 {
            assert!(queue.take(token(n), at(1200)).is_some(), "{n}");
            queue.abandon(token(n), at(1200)).unwrap();
        }
        assert_eq!(queue.take(token(40), at(1200)), None, "abandoned ten times");

        let mut queue = filled(1, FeedbackSettings::default());
        queue.take(token(1), at(0)).unwrap();
        queue.complete(token(1), at(59)).unwrap();
        assert!(queue.complete(token(1), at(59)).is_err());
        assert!(lengths(&mut queue, 3000).is_empty());
    }

    #[test]
    fn a_queue_tells_when_something_can_be_taken_again() {
        let delay = FeedbackSettings {
            delay: Duration::from_secs(15),
            ..FeedbackSettings::default()
        };
        let mut queue = FeedbackQueue::new(delay);
        assert_eq!(queue.next_change(), None);
        queue.push(record(1), at(0));
        assert_eq!(queue.take(token(1), at(1)), None);
        assert_eq!(queue.next_change(), Some(at(15)));
        assert!(queue.take(token(1), at(15)).is_some());
        // The hold is a minute.
        assert_eq!(queue.next_change(), Some(at(75)));
        assert!(queue.take(token(2), at(75)).is_some());
        queue.complete(token(2), at(75)).unwrap();
        assert_eq!(queue.next_change(), None);
    }

    #[test]
    fn what_nobody_reads_goes() {
        let mut released = filled(64, FeedbackSettings::default());
        assert_eq!(lengths(&mut released, 3600), [0; 0]);
        let mut open = filled(1, FeedbackSettings::default());
        assert_eq!(lengths(&mut open, 3600), [0; 0]);
        let mut kept = filled(64, FeedbackSettings::default());
        assert_eq!(lengths(&mut kept, 3599), [64]);

        let mut mixed = filled(1, FeedbackSettings::default());
        let late = FeedbackRecord {
            time: at(3599),
            ..record(1)
        };
        mixed.push(late.clone(), at(3599));
        let batch = mixed.take(token(1), at(3600)).unwrap();
        assert_eq!(*batch.records, [late]);

        let most = limits::FEEDBACK_BATCHES * limits::FEEDBACK_BATCH_RECORDS;
        let mut full = filled(most + 64, FeedbackSettings::default());
        let oldest = full.take(token(1), at(0)).unwrap();
        assert_eq!(&*oldest.records[0].message_id, "64");
        assert_eq!(lengths(&mut full, 0).len(), limits::FEEDBACK_BATCHES - 1);
    }

    #[test]
    fn records_of_a_deleted_device_go() {
        let mut queue = filled(70, FeedbackSettings::default());
        let held = queue.take(token(1), at(0)).unwrap();
        queue.forget(&record(0).target);
        queue.abandon(held.token, at(0)).unwrap();
        assert_eq!(lengths(&mut queue, 0), [32, 3]);
        let mut queue = filled(64, FeedbackSettings::default());
        queue.take(token(1), at(0)).unwrap();
        queue.forget(&record(0).target);
        queue.forget(&record(1).target);
        queue.complete(token(1), at(0)).unwrap();
        queue.clear();
        assert!(lengths(&mut queue, 0).is_empty());
    }
}

/// The queue as a list in which every second is looked at.
#[derive(Default)]
struct Model {
    now: u64,
    messages: Vec<ModelMessage>,
    sent: u64,
    ended: Vec<(u64, Outcome)>,
}

struct ModelMessage {
    sequence: u64,
    expiry: u64,
    abandoned: u32,
    held: Option<(LockToken, Holder, u64)>,
}

impl Model {
    fn tick(&mut self) {
        self.now += 1;
        for message in &mut self.messages {
            if message.held.is_some_and(|(.., until)| until == self.now) {
                message.held = None;
            }
        }
        self.end_where(Outcome::Expired, |m, now| m.held.is_none() && m.expiry <= now);
    }

    fn end_where(&mut self, outcome: Outcome, over: impl Fn(&ModelMessage, u64) -> bool) {
        for message in self.messages.extract_if(.., |m| over(m, self.now)) {
            self.ended.push((message.sequence, outcome));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send {
        ttl: Option<u64>,
    },
    Take {
        holder: u64,
    },
    /// Settles under the n-th last token.
    Settle {
        token: u64,
        settlement: Settlement,
    },
    Release {
        holder: u64,
    },
    Purge,
    Wait {
        seconds: u64,
    },
}

fn arb_step() -> impl Strategy<Value = Step> {
    let settlement = prop_oneof![
        2 => Just(Settlement::Complete),
        1 => Just(Settlement::Reject),
        3 => Just(Settlement::Abandon)
    ];
    prop_oneof![
        6 => proptest::option::of(0_u64..200).prop_map(|ttl| Step::Send { ttl }),
        6 => (0_u64..3).prop_map(|holder| Step::Take { holder }),
        6 => (0_u64..4, settlement).prop_map(|(token, settlement)| Step::Settle { token, settlement }),
        1 => (0_u64..3).prop_map(|holder| Step::Release { holder }),
        1 => Just(Step::Purge),
        3 => (1_u64..100).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #[test]
    fn the_queue_does_as_the_model(steps in proptest::collection::vec(arb_step(), 1..150)) {
        let settings = Settings { default_ttl: Duration::from_secs(120), max_delivery_count: 2, ..Settings::default() };
        let (mut queue, mut model, mut tokens) = (Queue::default(), Model::default(), 0);
        let mut all_ended: Vec<(u64, Outcome)> = Vec::new();
        for step in steps {
            let mut ended = Vec::new();
            let now = at(model.now);
            match step {
                Step::Send { ttl } => {
                    let expiry = ttl.map(|ttl| at(model.now + ttl).to_string());
                    let system: Vec<_> = expiry.iter().map(|e| (SystemProperty::Expiry, e.as_str())).collect();
                    let sent = queue.enqueue(draft(&system).unwrap(), &target(), &settings, now, &mut ended);
                    if ttl == Some(0) || model.messages.len() == limits::C2D_QUEUE_DEPTH {
                        prop_assert!(sent.is_err());
                    } else {
                        model.sent += 1;
                        prop_assert_eq!(sent, Ok(model.sent));
                        let expiry = model.now + ttl.unwrap_or(120);
                        model.messages.push(ModelMessage { sequence: model.sent, expiry, abandoned: 0, held: None });
                    }
                }
                Step::Take { holder } => {
                    tokens += 1;
                    let (holder, token, until) = (Holder(holder), token(tokens), model.now + 60);
                    let taken = queue.take(holder, token, |_| true, now, &mut ended);
                    let expected = model.messages.iter_mut().find(|m| m.held.is_none());
                    prop_assert_eq!(
                        taken.map(|d| (d.message.sequence, d.delivery_count)),
                        expected.as_ref().map(|m| (m.sequence, m.abandoned))
                    );
                    if let Some(message) = expected {
                        message.held = Some((token, holder, until));
                    }
                }
                Step::Settle { token: back, settlement } => {
                    let token = token(tokens.saturating_sub(back));
                    let settled = queue.settle(token, settlement, &settings, now, &mut ended);
                    let held = |m: &ModelMessage| m.held.is_some_and(|(known, ..)| known == token);
                    prop_assert_eq!(settled.is_ok(), model.messages.iter().any(held));
                    match settlement {
                        Settlement::Complete => model.end_where(Outcome::Success, |m, _| held(m)),
                        Settlement::Reject => model.end_where(Outcome::Rejected, |m, _| held(m)),
                        Settlement::Abandon => {
                            for message in model.messages.iter_mut().filter(|m| held(m)) {
                                message.abandoned += 1;
                                message.held = None;
                            }
                            model.end_where(Outcome::DeliveryCountExceeded, |m, _| m.abandoned == 2);
                        }
                    }
                }
                Step::Release { holder } => {
                    queue.release(Holder(holder));
                    for message in &mut model.messages {
                        message.held.take_if(|(_, known, _)| known.0 == holder);
                    }
                }
                Step::Purge => {
                    let purged = queue.purge(now, &mut ended);
                    prop_assert_eq!(purged, model.messages.len());
                    model.end_where(Outcome::Purged, |_, _| true);
                }
                Step::Wait { seconds } => {
                    let next = queue.next_change();
                    for _ in 0..seconds {
                        let before = (model.ended.len(), model.messages.iter().filter(|m| m.held.is_some()).count());
                        model.tick();
                        let after = (model.ended.len(), model.messages.iter().filter(|m| m.held.is_some()).count());
                        // What happens by itself was announced.
                        prop_assert!(before == after || next.is_some_and(|next| next <= at(model.now)));
                    }
                    queue.advance(at(model.now), &mut ended);
                }
            }
            // Released messages may have been over for a while.
            queue.advance(at(model.now), &mut ended);
            model.end_where(Outcome::Expired, |m, now| m.held.is_none() && m.expiry <= now);

            all_ended.extend(ended.iter().map(|e| (e.message.sequence, e.outcome)));
            all_ended.sort_by_key(|(sequence, _)| *sequence);
            model.ended.sort_by_key(|(sequence, _)| *sequence);
            prop_assert_eq!(&all_ended, &model.ended);
            prop_assert!(all_ended.windows(2).all(|two| two[0].0 != two[1].0), "a message ended twice");
            prop_assert_eq!(queue.len(), model.messages.len());
            prop_assert_eq!(queue.len() as u64 + all_ended.len() as u64, model.sent);
            for holder in 0..3 {
                let held: Vec<_> = queue.held_by(Holder(holder)).map(|(m, token)| (m.sequence, token)).collect();
                let expected = model.messages.iter().filter_map(|m| {
                    m.held.filter(|(_, known, _)| known.0 == holder).map(|(token, ..)| (m.sequence, token))
                });
                prop_assert_eq!(held, expected.collect::<Vec<_>>());
            }
        }
    }
}
