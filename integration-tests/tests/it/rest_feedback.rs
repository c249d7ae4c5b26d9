//! What senders of messages learn: batches of feedback.

use std::time::Duration;

use emulator::Hub;
use hub_core::c2d::{FeedbackSettings, Settings};
use hub_core::error::ErrorCode;
use hub_core::property_bag::SystemProperty;
use hub_core::time::Timestamp;
use serde_json::{Value, json};

use crate::support::c2d::{feedback, properties, send, target};
use crate::support::rest::{Reply, Rest, start};

const FEEDBACK: &str = "/messages/serviceBound/feedback";

/// Ends the queue of `d` in feedback for each of its messages.
async fn purge(rest: &Rest) {
    rest.call("DELETE", "/devices/d/commands").send().await.ok();
}

async fn take(rest: &Rest) -> (String, Value) {
    let reply = rest.get(FEEDBACK).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let media_type = reply.header("content-type");
    assert_eq!(media_type, Some("application/vnd.microsoft.iothub.feedback.json"));
    let etag = reply.header("etag").unwrap();
    let token = etag.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap();
    (token.to_owned(), serde_json::from_slice(&reply.body).unwrap())
}

async fn complete(rest: &Rest, token: &str) -> Reply {
    rest.call("DELETE", &format!("{FEEDBACK}/{token}")).send().await
}

async fn abandon(rest: &Rest, token: &str) -> Reply {
    rest.call("POST", &format!("{FEEDBACK}/{token}/abandon"))
        .send()
        .await
}

#[tokio::test]
async fn a_record_says_what_became_of_which_message() {
    let (hub, rest) = start().await;
    rest.get(FEEDBACK).await.no_content();
    let identity = rest.create("d").await;
    send(&hub, "d", 1);
    purge(&rest).await;
    let (token, batch) = take(&rest).await;
    let time = Timestamp::parse(batch[0]["enqueuedTimeUtc"].as_str().unwrap()).unwrap();
    assert!(hub.now().saturating_since(time) < Duration::from_secs(60));
    let expected = json!([{
        "originalMessageId": "1", "description": "Purged", "statusCode": "Purged", "deviceId": "d",
        "deviceGenerationId": identity["generationId"], "enqueuedTimeUtc": batch[0]["enqueuedTimeUtc"],
    }]);
    assert_eq!(batch, expected);
    complete(&rest, &token).await.no_content();
    rest.get(FEEDBACK).await.no_content();
}

#[tokio::test]
async fn feedback_comes_to_those_who_asked_for_that_end() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let path = "/devices/d/messages/devicebound";
    for (settle, heard) in [("", ["positive", "full"]), ("?reject", ["negative", "full"])] {
        for ack in ["none", "positive", "negative", "full"] {
            let asking = properties(
                &[(SystemProperty::MessageId, ack), (SystemProperty::Ack, ack)],
                &[],
            );
            hub.send_to_device(&target("d"), asking, "").unwrap();
        }
        hub.send_to_device(&target("d"), properties(&[], &[]), "")
            .unwrap();
        for _ in 0..5 {
            let reply = rest.get(path).await;
            let token = reply.header("etag").unwrap().trim_matches('"').to_owned();
            let call = rest.call("DELETE", &format!("{path}/{token}{settle}"));
            call.send().await.no_content();
        }
        let ids: Vec<_> = feedback(&rest).await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, heard);
    }
}

#[tokio::test]
async fn batches_have_64_records_and_keep_the_order() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    for n in 1..=100 {
        send(&hub, "d", n);
        purge(&rest).await;
    }
    let mut ids = Vec::new();
    for expected in [64, 36] {
        let batch = feedback(&rest).await;
        assert_eq!(batch.len(), expected);
        ids.extend(batch.into_iter().map(|(id, _)| id.parse::<u32>().unwrap()));
    }
    assert!(ids.into_iter().eq(1..=100));
}

#[tokio::test]
async fn a_batch_is_held_given_back_and_lost() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    send(&hub, "d", 1);
    purge(&rest).await;
    assert_eq!(rest.call("HEAD", FEEDBACK).send().await.status, 405);
    let (first, batch) = take(&rest).await;
    rest.get(FEEDBACK).await.no_content();
    abandon(&rest, &first).await.no_content();
    for late in [complete(&rest, &first).await, abandon(&rest, &first).await] {
        late.refused(ErrorCode::DeviceMessageLockLost);
    }
    let (second, again) = take(&rest).await;
    assert_eq!(batch, again);
    hub.advance_clock(Duration::from_secs(60));
    complete(&rest, &second)
        .await
        .refused(ErrorCode::DeviceMessageLockLost);
    for wrong in ["x", "%22%22", "00000000-0000-0000-0000-000000000000"] {
        complete(&rest, wrong)
            .await
            .refused(ErrorCode::DeviceMessageLockLost);
        abandon(&rest, wrong)
            .await
            .refused(ErrorCode::DeviceMessageLockLost);
    }
    complete(&rest, "%FF").await.refused(ErrorCode::ArgumentInvalid);
    abandon(&rest, "%FF").await.refused(ErrorCode::ArgumentInvalid);
    let (third, _) = take(&rest).await;
    complete(&rest, &format!("%22{third}%22")).await.no_content();
    rest.get(FEEDBACK).await.no_content();
}

#[tokio::test]
async fn feedback_that_nobody_reads_goes() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    send(&hub, "d", 1);
    purge(&rest).await;
    hub.advance_clock(Duration::from_secs(3600));
    rest.get(FEEDBACK).await.no_content();
}

#[tokio::test]
async fn a_batch_waits_for_more_records_when_the_hub_is_set_so() {
    let settings = Settings {
        feedback: FeedbackSettings {
            delay: Duration::from_secs(15),
            ..FeedbackSettings::default()
        },
        ..Settings::default()
    };
    let hub = Hub::builder().cloud_to_device(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    rest.create("d").await;
    send(&hub, "d", 1);
    purge(&rest).await;
    rest.get(FEEDBACK).await.no_content();
    hub.advance_clock(Duration::from_secs(15));
    assert_eq!(feedback(&rest).await, [("1".to_owned(), "Purged".to_owned())]);
}
