//! `iothub-emulator ports`: how to serve the port that SDKs insist on, as a
//! user who may not bind it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::trust::quoted;

/// The preload that lets unmodified Node SDKs use other ports.
const NODE_PRELOAD: &str = include_str!("../../assets/iothub-ports.js");

/// Explains how to get port 443, or how Node does without
///
/// SDKs connect to 8883 (MQTT), 5671 (AMQP) and 443 (REST, WebSockets) and mostly cannot be
/// told another port. 443 is below 1024, which many systems keep for root.
#[derive(Debug, Args)]
pub(crate) struct PortsArgs {
    /// Write the preload for Node, which maps ports without touching the SDKs,
    /// to this file
    #[arg(long, value_name = "FILE")]
    node_preload: Option<PathBuf>,
}

/// Prints the ways, or writes the preload.
///
/// # Errors
/// In words: which file cannot be written.
pub(crate) fn run(args: &PortsArgs) -> Result<(), String> {
    let Some(file) = &args.node_preload else {
        let program = std::env::current_exe().unwrap_or_else(|_| "iothub-emulator".into());
        print!("{}", ways(&program));
        return Ok(());
    };
    std::fs::write(file, NODE_PRELOAD).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    print!("{}", node_usage(file));
    Ok(())
}

fn ways(program: &Path) -> String {
    let directory = program.parent().unwrap_or(Path::new("."));
    let (program, directory) = (
        quoted(&program.display().to_string()),
        quoted(&directory.display().to_string()),
    );
    format!(
        "SDKs use 8883 for MQTT, 5671 for AMQP and 443 for REST and WebSockets. If this user may not bind 443, any one of these helps:

1. let this program bind low ports (Linux; again after each build):
     sudo setcap cap_net_bind_service=+ep {program}

2. let every program bind ports from 443 up (Linux; until the next boot):
     sudo sysctl net.ipv4.ip_unprivileged_port_start=443

3. run the hub in a container and publish the ports on loopback:
     docker run --rm -p 127.0.0.1:443:443 -p 127.0.0.1:8883:8883 -p 127.0.0.1:5671:5671 \\
         -p 127.0.0.1:8080:8080 \\
         -v {directory}:/hub:ro -v iothub-data:/data debian:stable-slim \\
         /hub/iothub-emulator --address 0.0.0.0 --data-dir /data

4. for Node only, map the ports inside the client; the SDKs stay as they are:
     iothub-emulator ports --node-preload iothub-ports.js

Clients that can be told a port need none of this: the Python service SDK takes HostName=localhost:8443, and
device-sim and job-service take --endpoint.
"
    )
}

fn node_usage(file: &Path) -> String {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let file = file.display();
    format!(
        "Wrote {file}. Start Node programs with

  export NODE_OPTIONS='--require {file}' IOTHUB_PORTS=443:8443 IOTHUB_HOSTS=localhost

and connections to port 443 of localhost go to 8443. More pairs are separated by commas
(443:8443,8883:18883), so are more hosts; IOTHUB_ADDRESS=127.0.0.1 sends all of them to one address.
"
    )
}
