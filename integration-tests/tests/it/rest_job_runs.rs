//! Jobs at work: what they do to devices and what they record of it.

use std::time::Duration;

use emulator::Hub;
use job_service::EngineSettings;
use serde_json::{Value, json};

use crate::support::answering::{Answer, AnsweringDevice};
use crate::support::jobs::{
    create, ended, expected, failure, has_status, job, method_job, not_online, outcomes, patient_job,
    records, statistics, twin_job,
};
use crate::support::rest::{Rest, start};
use crate::support::wait_for;

const NEVER: &str = "0001-01-01T00:00:00Z";

#[tokio::test]
async fn a_method_job_calls_every_device_that_it_selects() {
    let (hub, rest) = start().await;
    for id in ["d1", "d2", "d3"] {
        rest.create(id).await;
    }
    let answer = json!({"Response": "lockDoor called successfully"});
    let d1 = AnsweringDevice::connect(&hub, "d1", Answer::json(200, &answer)).await;
    let d2 = AnsweringDevice::connect(&hub, "d2", Answer::json(500, &Value::Null)).await;
    let d3 = AnsweringDevice::connect(&hub, "d3", Answer::json(200, &answer)).await;
    let method = json!({"methodName": "lockDoor", "payload": {"lockTime": "10m"},
                        "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 0});
    let body = method_job(
        "deviceId IN ['d1', 'd2', 'unknown']",
        json!({"cloudToDeviceMethod": method, "maxExecutionTimeInSeconds": 60}),
    );
    create(&rest, "j", &body).await;
    let done = ended(&rest, "j").await;
    assert_eq!(
        done,
        json!({
            "jobId": "j",
            "queryCondition": "deviceId IN ['d1', 'd2', 'unknown']",
            "createdTime": done["createdTime"],
            "startTime": done["startTime"],
            "endTime": done["endTime"],
            "maxExecutionTimeInSeconds": 60,
            "type": "scheduleDeviceMethod",
            "cloudToDeviceMethod": method,
            "status": "completed",
            "deviceJobStatistics": statistics([2, 0, 2, 0, 0]),
        })
    );
    for device in [&d1, &d2] {
        let calls = device.seen().calls;
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].name, "lockDoor");
        assert_eq!(&calls[0].payload[..], br#"{"lockTime":"10m"}"#);
    }
    assert!(d3.seen().calls.is_empty());

    // A status of the device's own is its own business.
    let records = records(&rest, "j").await;
    let record = |number: usize, id: &str, response: Value| {
        let sent = &records[number];
        let expected = json!({
            "deviceId": id,
            "jobId": "j",
            "jobType": "scheduleDeviceMethod",
            "status": "completed",
            "startTimeUtc": sent["startTimeUtc"],
            "endTimeUtc": sent["endTimeUtc"],
            "createdDateTimeUtc": sent["createdDateTimeUtc"],
            "lastUpdatedDateTimeUtc": sent["endTimeUtc"],
            "outcome": {"deviceMethodResponse": response},
        });
        assert_eq!(*sent, expected);
        let time = |name: &str| sent[name].as_str().unwrap().to_owned();
        assert!(done["createdTime"].as_str().unwrap() <= &*time("createdDateTimeUtc"));
        assert!(time("createdDateTimeUtc") <= time("startTimeUtc"));
        assert!(time("startTimeUtc") <= time("endTimeUtc"));
        assert!(*time("endTimeUtc") <= *done["endTime"].as_str().unwrap());
    };
    record(0, "d1", json!({ "status": 200, "payload": answer }));
    record(1, "d2", json!({"status": 500, "payload": null}));
    assert_eq!(records.len(), 2);
}

#[tokio::test]
async fn a_twin_job_patches_and_notifies() {
    let (hub, rest) = start().await;
    for id in ["d1", "d2"] {
        rest.create(id).await;
        rest.patch(
            &format!("/twins/{id}"),
            &json!({"tags": {"building": "43", "old": 1}}),
        )
        .await
        .ok();
    }
    rest.create("elsewhere").await;
    let mut online = AnsweringDevice::connect(&hub, "d1", Answer::Nothing).await;
    let update = json!({"etag": "*", "tags": {"old": null},
                        "properties": {"desired": {"building": "43", "floor": 3, "gone": null}}});
    create(
        &rest,
        "j",
        &twin_job("tags.building = '43'", json!({ "updateTwin": update })),
    )
    .await;
    let done = ended(&rest, "j").await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["updateTwin"], update);
    assert_eq!(done["deviceJobStatistics"], statistics([2, 0, 2, 0, 0]));
    for id in ["d1", "d2"] {
        let twin = rest.get(&format!("/twins/{id}")).await.ok();
        assert_eq!(twin["tags"], json!({"building": "43"}));
        let desired = &twin["properties"]["desired"];
        assert_eq!(
            (&desired["building"], &desired["floor"], &desired["$version"]),
            (&json!("43"), &json!(3), &json!(2))
        );
        assert!(desired.get("gone").is_none());
        assert_eq!(twin["version"], 4);
    }
    assert_eq!(rest.get("/twins/elsewhere").await.ok()["version"], 2);
    let seen = online
        .saw("the notification", |seen| !seen.desired.is_empty())
        .await;
    assert_eq!(
        seen.desired,
        [json!({"building": "43", "floor": 3, "gone": null, "$version": 2})]
    );
    for record in records(&rest, "j").await {
        assert_eq!(record["outcome"], json!({"deviceMethodResponse": null}));
        assert_eq!(record["jobType"], "scheduleUpdateTwin");
    }
}

#[tokio::test]
async fn modules_can_be_selected() {
    let (hub, rest) = start().await;
    for device in ["d1", "d2"] {
        rest.create(device).await;
        for module in ["m", "n"] {
            rest.put(&format!("/devices/{device}/modules/{module}"), &json!({}))
                .await
                .ok();
        }
    }
    let _d1 = AnsweringDevice::connect(&hub, "d1", Answer::json(200, &json!("device"))).await;
    let _m = AnsweringDevice::connect(&hub, "d1/m", Answer::json(200, &json!("module"))).await;
    create(
        &rest,
        "calls",
        &method_job("FROM devices.modules WHERE moduleId = 'm'", json!({})),
    )
    .await;
    let done = ended(&rest, "calls").await;
    assert_eq!(done["deviceJobStatistics"], statistics([2, 1, 1, 0, 0]));
    assert_eq!(
        outcomes(&rest, "calls").await,
        expected(&[("d1/m", json!("completed")), ("d2/m", not_online())])
    );
    let record = &records(&rest, "calls").await[0];
    assert_eq!(record["outcome"]["deviceMethodResponse"]["payload"], "module");

    create(
        &rest,
        "patches",
        &twin_job("from devices.modules where deviceId = 'd2'", json!({})),
    )
    .await;
    assert_eq!(ended(&rest, "patches").await["status"], "completed");
    for (path, version) in [
        ("/twins/d2", 2),
        ("/twins/d2/modules/m", 3),
        ("/twins/d2/modules/n", 3),
        ("/twins/d1/modules/m", 2),
    ] {
        assert_eq!(rest.get(path).await.ok()["version"], version, "{path}");
    }
}

#[tokio::test]
async fn a_device_that_connects_in_time_is_served() {
    let (hub, rest) = start().await;
    for id in ["early", "late", "never"] {
        rest.create(id).await;
    }
    let _early = AnsweringDevice::connect(&hub, "early", Answer::json(200, &json!(1))).await;
    create(&rest, "j", &patient_job("*", 60, 30, 3600)).await;
    // Statistics move while the job runs.
    wait_for("the first answer", async || {
        let job = job(&rest, "j").await;
        if job["deviceJobStatistics"] == statistics([3, 0, 1, 2, 0]) {
            Ok(())
        } else {
            Err(job)
        }
    })
    .await;
    let running = job(&rest, "j").await;
    assert_eq!(running["status"], "running");
    assert!(running.get("endTime").is_none());
    let record = &records(&rest, "j").await[1];
    assert_eq!(
        (&record["deviceId"], &record["status"]),
        (&json!("late"), &json!("running"))
    );
    assert_eq!(record["endTimeUtc"], NEVER);
    assert_eq!(record["lastUpdatedDateTimeUtc"], record["startTimeUtc"]);
    assert!(record.get("outcome").is_none() && record.get("error").is_none());

    hub.advance_clock(Duration::from_secs(50));
    let late = AnsweringDevice::connect(&hub, "late", Answer::json(200, &json!(2))).await;
    wait_for("the second answer", async || {
        let job = job(&rest, "j").await;
        if job["deviceJobStatistics"] == statistics([3, 0, 2, 1, 0]) {
            Ok(())
        } else {
            Err(job)
        }
    })
    .await;
    assert_eq!(late.seen().calls.len(), 1);
    hub.advance_clock(Duration::from_secs(10));
    assert_eq!(ended(&rest, "j").await["status"], "completed");
    assert_eq!(
        outcomes(&rest, "j").await,
        expected(&[
            ("early", json!("completed")),
            ("late", json!("completed")),
            ("never", not_online())
        ])
    );
}

#[tokio::test]
async fn the_devices_of_a_job_are_fixed_when_it_starts() {
    let (hub, rest) = start().await;
    rest.create("a").await;
    rest.create("b").await;
    let start = hub.now().saturating_add(Duration::from_secs(3600));
    let mut body = patient_job("NOT IS_DEFINED(tags.skip)", 300, 30, 3600);
    body["startTime"] = json!(start);
    create(&rest, "j", &body).await;
    has_status(&rest, "j", "scheduled").await;
    assert!(records(&rest, "j").await.is_empty());
    // Before the start the condition is not looked at.
    rest.create("c").await;
    rest.patch("/twins/b", &json!({"tags": {"skip": 1}})).await.ok();
    hub.advance_clock(Duration::from_secs(3600));
    wait_for("the start", async || {
        let job = job(&rest, "j").await;
        if job["deviceJobStatistics"] == statistics([2, 0, 0, 2, 0]) {
            Ok(())
        } else {
            Err(job)
        }
    })
    .await;
    // From then on nothing changes the set: neither new devices nor new tags.
    rest.create("d").await;
    rest.patch("/twins/a", &json!({"tags": {"skip": 1}})).await.ok();
    let d = AnsweringDevice::connect(&hub, "d", Answer::json(200, &json!(1))).await;
    let _a = AnsweringDevice::connect(&hub, "a", Answer::json(200, &json!(1))).await;
    rest.delete("/devices/c").await.no_content();
    let done = ended(&rest, "j").await;
    assert_eq!(done["deviceJobStatistics"], statistics([2, 1, 1, 0, 0]));
    assert_eq!(
        outcomes(&rest, "j").await,
        expected(&[("a", json!("completed")), ("c", failure("DeviceNotFound", "c"))])
    );
    assert!(d.seen().calls.is_empty());
}

#[tokio::test]
async fn devices_beyond_the_fan_out_wait_for_their_turn() {
    let settings = EngineSettings {
        fan_out: 1,
        ..EngineSettings::default()
    };
    let hub = Hub::builder().jobs(settings).start().await.unwrap();
    let rest = Rest::of(&hub);
    for id in ["a", "b", "c"] {
        rest.create(id).await;
    }
    let mut a = AnsweringDevice::connect(&hub, "a", Answer::Nothing).await;
    let _b = AnsweringDevice::connect(&hub, "b", Answer::json(200, &json!(1))).await;
    create(&rest, "j", &method_job("*", json!({}))).await;
    let call = a.call(1).await;
    assert_eq!(
        job(&rest, "j").await["deviceJobStatistics"],
        statistics([3, 0, 0, 1, 2])
    );
    let waiting = &records(&rest, "j").await[1];
    assert_eq!(waiting["status"], "pending");
    assert_eq!(waiting["startTimeUtc"], NEVER);
    assert_eq!(waiting["endTimeUtc"], NEVER);
    assert_eq!(waiting["lastUpdatedDateTimeUtc"], waiting["createdDateTimeUtc"]);
    // One that goes before its turn is not found.
    rest.delete("/devices/c").await.no_content();
    a.respond(&call, 200, b"1");
    assert_eq!(ended(&rest, "j").await["status"], "completed");
    assert_eq!(
        outcomes(&rest, "j").await,
        expected(&[
            ("a", json!("completed")),
            ("b", json!("completed")),
            ("c", failure("DeviceNotFound", "c"))
        ])
    );
}

#[tokio::test]
async fn a_condition_is_whatever_may_follow_where() {
    let (_hub, rest) = start().await;
    for (id, floor) in [("a", 1), ("b", 2), ("C", 3)] {
        rest.create(id).await;
        let tags = json!({"tags": {"floor": floor, "place": {"building": "43"}}});
        rest.patch(&format!("/twins/{id}"), &tags).await.ok();
    }
    for (n, (condition, selected)) in [
        ("*", &["C", "a", "b"][..]),
        (" * ", &["C", "a", "b"]),
        ("deviceId IN ['a', 'b', 'x']", &["a", "b"]),
        ("DeviceId in ['a']", &["a"]),
        ("deviceid = 'C'", &["C"]),
        ("is_defined(deviceId)", &["C", "a", "b"]),
        ("tags.floor > 1 and NOT deviceId = 'C'", &["b"]),
        ("tags.place.building = '43' AND tags.floor <= 2", &["a", "b"]),
        ("FROM devices WHERE tags.floor = 3", &["C"]),
        ("properties.desired.unknown = 1", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("j{n}");
        create(&rest, &id, &twin_job(condition, json!({}))).await;
        let done = ended(&rest, &id).await;
        assert_eq!(
            (&done["status"], &done["queryCondition"]),
            (&json!("completed"), &json!(condition))
        );
        let found: Vec<String> = outcomes(&rest, &id).await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(found, selected, "{condition}");
    }
}

#[tokio::test]
async fn many_devices_are_tracked_one_by_one() {
    let (hub, rest) = start().await;
    let lines: Vec<String> = (0..1000)
        .map(|n| format!("{{\"deviceId\":\"d{n:04}\"}}"))
        .collect();
    hub.import(&lines.join("\n")).unwrap();
    create(&rest, "j", &twin_job("*", json!({}))).await;
    let done = ended(&rest, "j").await;
    assert_eq!(done["deviceJobStatistics"], statistics([1000, 0, 1000, 0, 0]));
    let patched = rest
        .query("SELECT COUNT() AS n FROM devices WHERE tags.patched = true")
        .await
        .ok();
    assert_eq!(patched, json!([{"n": 1000}]));
}
