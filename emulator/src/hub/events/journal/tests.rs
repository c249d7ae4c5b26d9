use hub_core::events::Origin;
use hub_core::ids::{DeviceId, Target};
use hub_core::property_bag::Bag;
use hub_core::time::Timestamp;

use super::*;

fn journal() -> (Clock, Arc<Journal>) {
    let clock = Clock::manual(Timestamp::from_unix_ticks(0));
    (clock.clone(), Arc::new(Journal::new(clock)))
}

fn record(journal: &Journal, device: &str, body: &[u8]) {
    let origin = Arc::new(Origin {
        target: Target::device(DeviceId::parse(device).unwrap()),
        sender: None,
    });
    journal.record(&Happening {
        kind: Kind::Telemetry,
        operation: "",
        origin: Some(&origin),
        bag: &Bag::parse("a=b").unwrap(),
        body,
        routes: None,
        at: Timestamp::from_unix_ticks(0),
    });
}

/// What a watcher has without waiting: ids and first bytes of entries, or gaps.
async fn seen(watcher: &mut Watcher) -> Vec<Result<(u64, Vec<u8>), Gap>> {
    let mut all = Vec::new();
    while let Ok(Some(seen)) = tokio::time::timeout(Duration::from_millis(1), watcher.next()).await {
        all.push(match seen {
            Seen::Entry(id, entry) => Ok((id, entry.body()[..entry.body().len().min(8)].to_vec())),
            Seen::Gap(gap) => Err(gap),
        });
    }
    all
}

fn entry(id: u64, body: &str) -> Result<(u64, Vec<u8>), Gap> {
    Ok((id, body.into()))
}

#[tokio::test(start_paused = true)]
async fn what_nobody_watches_is_not_kept() {
    let (_, journal) = journal();
    record(&journal, "d", b"0");
    let mut watcher = journal.watch(None, Filter::default()).unwrap();
    let begin = watcher.position();
    assert_eq!(seen(&mut watcher).await, []);
    record(&journal, "d", b"1");
    record(&journal, "d", b"2");
    assert_eq!(
        seen(&mut watcher).await,
        [entry(begin + 1, "1"), entry(begin + 2, "2")]
    );
    assert_eq!(watcher.position(), begin + 2);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_goes_on_where_it_was() {
    let (clock, journal) = journal();
    let watcher = journal.watch(None, Filter::default()).unwrap();
    let begin = watcher.position();
    record(&journal, "d", b"1");
    drop(watcher);
    record(&journal, "d", b"2");
    clock.advance(limits::JOURNAL_LINGER);
    record(&journal, "d", b"3");
    let mut watcher = journal.watch(Some(begin + 1), Filter::default()).unwrap();
    assert_eq!(
        seen(&mut watcher).await,
        [entry(begin + 2, "2"), entry(begin + 3, "3")]
    );
    let mut from_start = journal.watch(Some(0), Filter::default()).unwrap();
    assert_eq!(seen(&mut from_start).await.len(), 3);
    drop((watcher, from_start));
    // Too late: nothing is kept any more, and nobody knows how much there was.
    clock.advance(limits::JOURNAL_LINGER + Duration::from_secs(1));
    record(&journal, "d", b"4");
    assert!(!journal.is_active());
    let mut watcher = journal.watch(Some(begin + 3), Filter::default()).unwrap();
    record(&journal, "d", b"5");
    let last = begin + 4;
    assert_eq!(
        seen(&mut watcher).await,
        [Err(Gap { missed: None, last }), entry(last + 1, "5")]
    );
    // An id that there never was.
    let mut watcher = journal.watch(Some(u64::MAX), Filter::default()).unwrap();
    assert_eq!(
        seen(&mut watcher).await,
        [Err(Gap { missed: None, last }), entry(last + 1, "5")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_finds_a_gap_and_goes_on() {
    let (_, journal) = journal();
    let mut watcher = journal.watch(None, Filter::default()).unwrap();
    let begin = watcher.position();
    for _ in 0..limits::JOURNAL_ENTRIES + 7 {
        record(&journal, "d", b"x");
    }
    let all = seen(&mut watcher).await;
    let gap = Gap {
        missed: Some(7),
        last: begin + 7,
    };
    assert_eq!(all[0], Err(gap));
    assert_eq!(all[1], entry(begin + 8, "x"));
    assert_eq!(all.len(), 1 + limits::JOURNAL_ENTRIES);
    let figures = journal.figures();
    assert_eq!((figures.watchers, figures.gaps, figures.missed), (1, 1, 7));
    // Bytes are bounded as well, and what a watcher has taken is.
    let large = vec![b'y'; limits::JOURNAL_BODY_BYTES + 1];
    for _ in 0..300 {
        record(&journal, "d", &large);
    }
    {
        let ring = journal.lock();
        assert!(ring.bytes <= limits::JOURNAL_BYTES);
        assert!(ring.bytes + large.len() + 1000 > limits::JOURNAL_BYTES);
        assert_eq!(
            ring.bytes,
            ring.entries.iter().map(|entry| entry.size()).sum::<usize>()
        );
    }
    let Some(Seen::Gap(_)) = watcher.next().await else {
        panic!("a gap was expected");
    };
    let Some(Seen::Entry(_, first)) = watcher.next().await else {
        panic!("an entry was expected");
    };
    assert!(first.is_cut());
    assert_eq!(first.body_bytes, large.len());
    assert!(watcher.taken.len() < 8);
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_a_gap_for_who_has_not_seen_all_of_it() {
    let (_, journal) = journal();
    let mut quick = journal.watch(None, Filter::default()).unwrap();
    let mut slow = journal.watch(None, Filter::default()).unwrap();
    let begin = quick.position();
    record(&journal, "d", b"1");
    assert_eq!(seen(&mut quick).await.len(), 1);
    journal.clear();
    record(&journal, "d", b"2");
    assert_eq!(seen(&mut quick).await, [entry(begin + 2, "2")]);
    let gap = Gap {
        missed: Some(1),
        last: begin + 1,
    };
    assert_eq!(seen(&mut slow).await, [Err(gap), entry(begin + 2, "2")]);
}

#[tokio::test(start_paused = true)]
async fn watchers_are_few_and_end_with_the_hub() {
    let (_, journal) = journal();
    let mut watchers: Vec<_> = (0..limits::JOURNAL_WATCHERS)
        .map(|_| journal.watch(None, Filter::default()).unwrap())
        .collect();
    assert_eq!(
        journal.watch(None, Filter::default()).err(),
        Some(TooManyWatchers)
    );
    watchers.pop();
    assert!(journal.watch(None, Filter::default()).is_ok());
    record(&journal, "d", b"1");
    // Nobody waits for those who do not read for ever.
    journal.close().await;
    let last = watchers.last_mut().unwrap();
    assert!(matches!(last.next().await, Some(Seen::Entry(..))));
    assert!(last.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_woken_and_sees_what_it_asked_for() {
    let (_, journal) = journal();
    let filter = Filter {
        devices: vec!["room-*".into(), "x".into()],
        kinds: vec![Kind::Telemetry, Kind::Method],
        routes: Vec::new(),
    };
    let mut watcher = journal.watch(None, filter).unwrap();
    let writer = {
        let journal = journal.clone();
        tokio::spawn(async move {
            for device in ["hall", "room-1", "x", "xx", "room", "room-"] {
                tokio::time::sleep(Duration::from_millis(1)).await;
                record(&journal, device, device.as_bytes());
            }
        })
    };
    for expected in ["room-1", "x", "room-"] {
        let Some(Seen::Entry(_, entry)) = watcher.next().await else {
            panic!("{expected} was expected");
        };
        assert_eq!(entry.body(), expected.as_bytes());
    }
    writer.await.unwrap();
}

#[test]
fn a_cut_text_ends_with_a_whole_character() {
    let text = "x".to_owned() + &"ä".repeat(limits::JOURNAL_BODY_BYTES / 2 + 1);
    let happening = Happening {
        kind: Kind::C2d,
        operation: "queued",
        origin: None,
        bag: &Bag::default(),
        body: text.as_bytes(),
        routes: Some(&Arc::from([Arc::from("alerts")])),
        at: Timestamp::from_unix_ticks(0),
    };
    let entry = Entry::of(&happening);
    assert_eq!(entry.body().len(), limits::JOURNAL_BODY_BYTES - 1);
    let json = entry.json(7);
    assert_eq!(json["bodyBytes"], text.len());
    assert_eq!(json["operation"], "queued");
    assert_eq!(json["routes"], serde_json::json!(["alerts"]));
    assert!(text.starts_with(json["body"].as_str().unwrap()));
    // Bytes that are no text are cut as they are.
    let bytes = vec![0xff; limits::JOURNAL_BODY_BYTES + 1];
    let entry = Entry::of(&Happening {
        body: &bytes,
        ..happening
    });
    assert_eq!(entry.body().len(), limits::JOURNAL_BODY_BYTES);
}
