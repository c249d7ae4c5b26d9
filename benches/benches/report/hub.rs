//! The role of the hub: a hub on free ports with its devices registered, each
//! with tags and a desired property; or the whole scenario in one process, over
//! connections in memory.

use std::path::Path;
use std::time::Instant;

use benches::rest::RestConnection;
use benches::site::{Site, service_connection};
use benches::{runtime, wait_until};
use emulator::{Hub, Ports};
use serde_json::{Value, json};

use super::child::own_cpu;
use super::{child, desired_job, device_id, method_job};

/// Rounds of each job in memory; the first warms up.
const ROUNDS: usize = 4;

/// `hub DEVICES DATA-DIR`: says its connection string, addresses and CA file.
pub(crate) fn run(arguments: &[String]) {
    let [devices, data_dir] = arguments else {
        panic!("a hub takes two arguments")
    };
    let devices: usize = devices.parse().expect("a number");
    let runtime = runtime();
    let hub = runtime.block_on(async {
        let hub = Hub::builder()
            .ports(Ports::ANY)
            .data_dir(Path::new(data_dir))
            .start()
            .await;
        hub.expect("the hub starts")
    });
    register(&hub, devices);
    let address = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
    let ready = json!({
        "connection": hub.service_connection_string(),
        "mqtt": address(hub.mqtt_address()),
        "mqttsPort": hub.mqtts_address().map(|address| address.port()),
        "http": address(hub.http_address()),
        "caFile": Path::new(data_dir).join("ca.pem"),
    });
    child::serve(&ready, |line| panic!("no command {line}"));
}

fn register(hub: &Hub, devices: usize) {
    let service = service_connection(hub);
    let credentials = device_sim::Credentials::derived(&service);
    for start in (0..devices).step_by(10_000) {
        let lines: Vec<String> = (start..devices.min(start + 10_000))
            .map(|number| {
                let id = device_id(number);
                let target = hub_core::ids::Target::device(
                    hub_core::ids::DeviceId::parse(&id).expect("a legal id"),
                );
                let key = credentials.device_key(&target).expect("a derived key").to_base64();
                json!({
                    "deviceId": id,
                    "authentication": {"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}},
                    "tags": {"fleet": "bench", "building": number % 100},
                    "properties": {"desired": {"interval": 60}},
                })
                .to_string()
            })
            .collect();
        hub.import(&lines.join("\n")).expect("the devices are legal");
    }
}

/// `memory DEVICES`: says the figures at once.
pub(crate) fn run_in_memory(arguments: &[String]) {
    let devices: usize = arguments[0].parse().expect("a number");
    let figures = runtime().block_on(in_memory(devices));
    child::serve(&figures, |line| panic!("no command {line}"));
}

/// Both kinds of jobs over all devices, counted at the devices' end; processor
/// time is that of hub and devices.
async fn in_memory(devices: usize) -> Value {
    let site = Site::start(devices).await;
    let fleet = site.connect_fleet().await;
    let mut rest = RestConnection::open(&site.hub).await;
    let (mut methods, mut twins) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let expected = fleet.counts().methods_answered + devices as u64;
        let meter = Meter::start();
        rest.run_job(&format!("m{round}"), &method_job(), devices).await;
        wait_until("every device has answered", || {
            fleet.counts().methods_answered == expected
        })
        .await;
        methods.push(meter.stop(devices));

        let meter = Meter::start();
        rest.run_job(&format!("t{round}"), &desired_job(round), devices)
            .await;
        wait_until("every device has the change", || {
            fleet.devices_with_desired(&json!({"round": round})) == devices
        })
        .await;
        twins.push(meter.stop(devices));
    }
    let median = |rounds: &[[f64; 2]], of: usize| {
        let mut values: Vec<f64> = rounds[1..].iter().map(|round| round[of]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    json!({
        "methodSeconds": median(&methods, 0), "methodCpu": median(&methods, 1),
        "twinSeconds": median(&twins, 0), "twinCpu": median(&twins, 1),
    })
}

struct Meter(Instant, f64);

impl Meter {
    fn start() -> Self {
        Self(Instant::now(), own_cpu())
    }

    /// Seconds, and processor time in µs for each of `count`.
    fn stop(self, count: usize) -> [f64; 2] {
        let seconds = self.0.elapsed().as_secs_f64();
        [seconds, (own_cpu() - self.1) * 1e6 / count as f64]
    }
}
