//! Simulated devices that prove who they are with a certificate in PEM files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use device_sim::transport::ClientFiles;
use device_sim::{Credentials, Fleet, Transport};
use emulator::Hub;
use hub_core::connection_string::{ConnectionString, Host};
use rcgen::KeyPair;
use serde_json::json;

use crate::support::certificates::named;
use crate::support::rest::Rest;

/// Writes `text` to a file of its own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("device-sim-x509-{name}.pem"));
    std::fs::write(&path, text).unwrap();
    path
}

/// Waits until the hub has refused the device, and stops it.
async fn is_refused(hub: &Hub, fleet: Fleet) {
    let before = hub.counters();
    let refused = |_: &Fleet| hub.counters().connects_refused > before.connects_refused;
    assert!(fleet.wait_for(Duration::from_secs(10), refused).await);
    assert_eq!(hub.counters().connects_accepted, before.connects_accepted);
    fleet.stop().await;
}

#[tokio::test]
async fn a_certificate_in_files_lets_a_device_in() {
    let hub = Hub::builder().start().await.unwrap();
    let rest = Rest::of(&hub);
    let identity = json!({"authentication": {"type": "certificateAuthority"}});
    rest.put("/devices/d", &identity).await.ok();
    let key = KeyPair::generate().unwrap();
    let certificate = named("d").self_signed(&key).unwrap();
    let (ca, chain, key) = (
        file("ca", hub.ca_pem()),
        file("certificate", &certificate.pem()),
        file("key", &key.serialize_pem()),
    );
    let ConnectionString::Device(device) =
        ConnectionString::parse("HostName=localhost;DeviceId=d;x509=true").unwrap()
    else {
        panic!("a device's connection string");
    };
    let address = Host::parse(&format!("localhost:{}", hub.mqtts_address().unwrap().port())).unwrap();
    let client = ClientFiles {
        certificate: &chain,
        key: &key,
    };
    let with = Transport::tls_with_certificate(&address, Some(&ca), &client).unwrap();
    let without = Transport::tls(&address, Some(&ca)).unwrap();
    let fleet = |transport: &Transport| {
        Fleet::builder(transport.clone(), Credentials::device(&device))
            .targets(vec![device.target.clone()])
            .start()
            .unwrap()
    };

    // Nobody vouches for it yet.
    is_refused(&hub, fleet(&with)).await;

    hub.add_device_ca(certificate.pem()).unwrap();
    let known = fleet(&with);
    known.wait_connected(Duration::from_secs(10)).await.unwrap();
    assert_eq!(hub.connected_count(), 1);
    known.stop().await;

    is_refused(&hub, fleet(&without)).await;
    hub.shutdown().await;
}
