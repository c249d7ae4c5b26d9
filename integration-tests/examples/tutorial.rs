//! The tutorial as a Rust test would write it: a hub of its own, a simulated
//! device, a job for next week, and a clock that is moved there.

// An example shows what happens.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use device_sim::{Credentials, Event, Fleet, Transport};
use emulator::Hub;
use hub_core::connection_string::ConnectionString;
use hub_core::ids::{JobId, Target};
use hub_core::job::JobRequest;
use job_service::rest::{ClientOptions, ServiceClient};
use serde_json::{Value, json};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let hub = Hub::builder().start().await?;

    // The device: answers lockDoor and prints what it is told.
    let ConnectionString::Device(device) = ConnectionString::parse(&hub.create_device("my-device")?)? else {
        return Err("not a device".into());
    };
    let connector = hub.memory_connector();
    let fleet = Fleet::builder(
        Transport::memory(move || Ok(connector.connect())),
        Credentials::device(&device),
    )
    .targets(vec![Target::clone(&device.target)])
    .observer(|device, event| {
        if let Event::Method { name, .. } = event {
            println!("{device} is asked to {name}");
        }
    })
    .start()?;
    fleet.wait_connected(Duration::from_secs(10)).await?;

    // The back end: a job for next week, over the REST API.
    let endpoint = hub.http_address().map(|address| format!("http://{address}"));
    let back_end = ServiceClient::new(
        &hub.service_connection_string(),
        &ClientOptions {
            endpoint,
            ca_pem: None,
        },
    )?;
    let id = JobId::parse("lock-all-doors")?;
    let body = json!({
        "type": "scheduleDeviceMethod",
        "cloudToDeviceMethod": { "methodName": "lockDoor", "payload": { "lockTime": "10m" } },
        "queryCondition": "*",
        "startTime": hub.now().saturating_add(WEEK),
        "maxExecutionTimeInSeconds": 60,
    });
    back_end
        .create_job(&JobRequest::from_json(id.as_str(), &body, hub.now())?)
        .await?;

    // Next week comes at once.
    hub.advance_clock(WEEK);
    let job = loop {
        let job: Value = back_end.job(&id).await?.ok_or("the job is gone")?;
        if job["status"] == "completed" || job["status"] == "failed" {
            break job;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    println!("{} with {}", job["status"], job["deviceJobStatistics"]);
    assert_eq!(fleet.devices_with_method("lockDoor"), 1);
    fleet.stop().await;
    hub.shutdown().await;
    Ok(())
}
