use std::ops::ControlFlow;

use hub_core::error::ErrorCode;
use hub_core::events::{AuthMethod, AuthScope};
use hub_core::ids::DeviceId;
use hub_core::job::{JobRequest, JobStatus};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::*;

#[tokio::test(start_paused = true)]
async fn who_watches_and_does_not_read_is_cut_off() {
    let hub = Hub::builder().start().await.unwrap();
    let (mut client, server) = tokio::io::duplex(1024);
    let router = http::router(hub.app.clone());
    let served = tokio::spawn(serve_http(Guarded::new(server), hub.app.clone(), router, None));
    client
        .write_all(b"GET /_emulator/events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
        .await
        .unwrap();
    let journal = hub.app.hub.events.journal.clone();
    while journal.figures().watchers == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for number in 0..10 {
        hub.create_device(&format!("d{number}")).unwrap();
    }
    timeout(Duration::from_secs(120), served).await.unwrap().unwrap();
    assert_eq!(journal.figures().watchers, 0);
    drop(client);
}

#[tokio::test]
async fn what_the_last_task_accepts_reaches_a_directory() {
    let directory = std::env::temp_dir().join(uuid::Uuid::new_v4().to_string());
    let routing = Routing::from_json(&json!({
        "endpoints": {"directories": [{"name": "files", "path": directory}]},
        "routes": [{"name": "all", "source": "DeviceMessages", "endpointNames": ["files"]}],
    }));
    let hub = Hub::builder().routing(routing.unwrap()).start().await.unwrap();
    hub.create_device("d").unwrap();
    let app = hub.app.clone();
    // A connection that is slow to end, and has a message until it has.
    let connection = async move {
        app.stop.cancelled().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let target = Target::device(DeviceId::parse("d").unwrap());
        let message = (MessageProperties::default(), Bytes::from_static(b"last"));
        app.hub
            .accept_telemetry(&target, AuthMethod::Sas(AuthScope::Device), &[message])
            .unwrap();
    };
    hub.app.tasks.spawn(connection);
    timeout(Duration::from_secs(20), hub.shutdown()).await.unwrap();
    let written = std::fs::read_to_string(directory.join("files-00000001.jsonl")).unwrap();
    assert!(written.contains("last"), "{written}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn shutdown_leaves_a_running_job_with_what_it_has_recorded() {
    let hub = Hub::builder().start().await.unwrap();
    let devices = [
        json!({"deviceId": "gone", "status": "disabled"}),
        json!({"deviceId": "offline"}),
    ];
    hub.import(&devices.map(|device| device.to_string()).join("\n"))
        .unwrap();
    let body = json!({"type": "scheduleDeviceMethod", "queryCondition": "*",
        "cloudToDeviceMethod": {"methodName": "m", "connectTimeoutInSeconds": 300}});
    let request = |id: &str| JobRequest::from_json(id, &body, hub.now()).unwrap();
    let (job, another) = (request("j"), request("k"));
    let id = job.id.clone();
    let jobs = hub.app.jobs.clone();
    jobs.create(job).unwrap();
    let mut progress = jobs.watch(&id).unwrap();
    let recorded = progress.wait_for(|p| p.statistics.failed_count == 1 && p.statistics.running_count == 1);
    timeout(Duration::from_secs(20), recorded).await.unwrap().unwrap();
    let app = Arc::downgrade(&hub.app.hub);

    // Nobody waits the five minutes that the device may take.
    timeout(Duration::from_secs(20), hub.shutdown()).await.unwrap();
    assert_eq!(jobs.get(&id).unwrap().status, JobStatus::Running);
    let mut records = Vec::new();
    jobs.for_each_record(Some(std::slice::from_ref(&id)), None, |view| {
        records.push((view.record.target.to_string(), view.record.state.name()));
        ControlFlow::Continue(())
    });
    assert_eq!(
        records,
        [("gone".to_owned(), "failed"), ("offline".to_owned(), "running")]
    );
    let refused = jobs.create(another).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ServiceUnavailable);
    // Nothing of the hub is left but for this handle.
    drop((jobs, progress));
    assert!(app.upgrade().is_none());
}
