//! The fleet's own process: connects its devices, says so, and then answers
//! each line on standard input with a line of JSON until the input ends.

use device_sim::{Credentials, Transport};
use hub_core::connection_string::Host;
use hub_core::ids::{DeviceId, IdError, Target};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

use crate::Failure;
use crate::args::FleetArgs;
use crate::fleet::{LocalFleet, PREFIX, ProcessUsage, service};

pub(crate) async fn run(args: FleetArgs) -> Result<(), Failure> {
    let credentials = Credentials::derived(&service(&args.connection_string)?);
    let transport = Transport::tcp(&Host::parse(&args.mqtt.to_string())?);
    let fleet = LocalFleet::start(transport, credentials, targets(args.devices)?)?;
    say(&fleet.wait_connected().await?)?;
    let mut questions = BufReader::new(stdin()).lines();
    while let Some(question) = questions.next_line().await? {
        match question.as_str() {
            "verify" => say(&fleet.verify().await)?,
            "stop" => {
                // As of before: disconnecting is not part of the scenario.
                let usage = ProcessUsage::current();
                fleet.stop().await;
                return say(&usage);
            }
            other => return Err(format!("no such question: {other}").into()),
        }
    }
    Ok(())
}

/// The devices of the scenario.
pub(crate) fn targets(count: u32) -> Result<Vec<Target>, IdError> {
    (0..count)
        .map(|i| DeviceId::parse(&format!("{PREFIX}{i:05}")).map(Target::device))
        .collect()
}

fn say(what: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}
