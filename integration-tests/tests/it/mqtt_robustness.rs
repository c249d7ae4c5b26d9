//! Bytes that no client would send: the hub closes such connections and goes
//! on serving the others.

use emulator::Hub;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::support::device::{DESIRED_CHANGES, Device, Identity, METHODS, TWIN_RESPONSES, bytes_of};
use crate::support::{start_hub, wait_for};

const CASES: u32 = 200;

/// Bytes like a packet's: a first byte, a length that is mostly right, a body.
fn arb_packet() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..100),
        // A topic's length in front makes it a PUBLISH more often.
        "[a-z$/#+?=&%]{0,60}".prop_map(|topic| {
            let mut body = vec![0, topic.len() as u8];
            body.extend_from_slice(topic.as_bytes());
            body
        }),
        "(devices/d/messages/events/|\\$iothub/twin/GET/|\\$iothub/methods/res/)[a-z$?=&%/0-9]{0,20}"
            .prop_map(|topic| {
                let mut body = vec![0, topic.len() as u8];
                body.extend_from_slice(topic.as_bytes());
                body.extend_from_slice(b"\x00\x01{}");
                body
            }),
    ];
    (any::<u8>(), body, prop_oneof![9 => Just(0_u8), 1 => any::<u8>()]).prop_map(|(first, body, off)| {
        let mut packet = vec![first, (body.len() as u8).wrapping_add(off)];
        packet.extend_from_slice(&body);
        packet
    })
}

fn arb_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        proptest::collection::vec(arb_packet(), 1..8).prop_map(|packets| packets.concat()),
    ]
}

/// What all cases of a test share: a hub and a device that must not be disturbed.
struct Stage {
    runtime: Runtime,
    hub: Hub,
    identity: Identity,
    witness: Mutex<Device>,
}

impl Stage {
    fn set() -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let (hub, witness) = runtime.block_on(async {
            let hub = start_hub().await;
            let witness = Device::online(&hub, "witness").await;
            (hub, Mutex::new(witness))
        });
        Self {
            identity: Identity::create(&hub, "d"),
            runtime,
            hub,
            witness,
        }
    }

    /// Sends `bytes` in two portions and hangs up; then all is as before.
    async fn survive(&self, mut device: Device, bytes: &[u8], cut: Index) {
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        device.send_bytes(head).await;
        tokio::task::yield_now().await;
        device.send_bytes(tail).await;
        drop(device);
        let mut witness = self.witness.lock().await;
        witness
            .publish_acknowledged("devices/witness/messages/events/", "x")
            .await;
        let alone = async || match self.hub.connected_count() {
            1 => Ok(()),
            n => Err(n),
        };
        wait_for("the end of the connection", alone).await;
    }
}

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig {
        // There is no place for regressions beside a test of this kind.
        failure_persistence: None,
        ..ProptestConfig::with_cases(CASES)
    })
}

#[test]
fn arbitrary_bytes_in_place_of_connect_hurt_nobody() {
    let stage = Stage::set();
    let test = |(bytes, cut): (Vec<u8>, Index)| {
        stage.runtime.block_on(async {
            let device = Device::in_memory(&stage.hub);
            stage.survive(device, &bytes, cut).await;
        });
        Ok(())
    };
    runner().run(&(arb_bytes(), any::<Index>()), test).unwrap();
    assert_eq!(stage.hub.counters().connects_accepted, 1);
}

#[test]
fn arbitrary_bytes_after_connect_hurt_nobody() {
    let stage = Stage::set();
    let test = |(bytes, cut): (Vec<u8>, Index)| {
        stage.runtime.block_on(async {
            let (mut device, _) = Device::connected(&stage.hub, stage.identity.connect()).await;
            device
                .subscribe(&[METHODS, TWIN_RESPONSES, DESIRED_CHANGES])
                .await;
            stage.survive(device, &bytes, cut).await;
        });
        Ok(())
    };
    runner().run(&(arb_bytes(), any::<Index>()), test).unwrap();
    let counters = stage.hub.counters();
    assert_eq!(counters.connects_accepted, 1 + u64::from(CASES));
    assert_eq!(counters.takeovers, 0);
}

#[test]
fn a_damaged_connect_hurts_nobody() {
    let stage = Stage::set();
    let connect = bytes_of([stage.identity.connect().into()]);
    let test = |(at, byte, cut): (Index, u8, Index)| {
        let mut bytes = connect.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        stage.runtime.block_on(async {
            let device = Device::in_memory(&stage.hub);
            stage.survive(device, &bytes, cut).await;
        });
        Ok(())
    };
    runner()
        .run(&(any::<Index>(), any::<u8>(), any::<Index>()), test)
        .unwrap();
}
