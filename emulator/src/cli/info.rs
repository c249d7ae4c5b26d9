//! What the program tells once it is ready: to people on stdout, to machines
//! in a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emulator::Hub;
use serde::Serialize;

/// Where the hub is and how to get in.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    host_name: String,
    pid: u32,
    ca_file: PathBuf,
    service_connection_string: String,
    /// For clients of Event Hubs.
    event_hub_connection_string: Option<String>,
    /// The same for each stream of the message routing, by its name.
    stream_connection_strings: BTreeMap<String, String>,
    ports: InfoPorts,
    #[serde(skip)]
    addresses: [Option<SocketAddr>; 6],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InfoPorts {
    mqtt: Option<u16>,
    mqtts: Option<u16>,
    amqp: Option<u16>,
    amqps: Option<u16>,
    http: Option<u16>,
    https: Option<u16>,
    event_tap: Option<u16>,
}

impl Info {
    pub(crate) fn of(hub: &Hub, data_dir: &Path) -> Self {
        let addresses = [
            hub.mqtt_address(),
            hub.mqtts_address(),
            hub.amqp_address(),
            hub.amqps_address(),
            hub.http_address(),
            hub.https_address(),
        ];
        let [mqtt, mqtts, amqp, amqps, http, https] = addresses.map(|address| address.map(|a| a.port()));
        let ca_file = data_dir.join("ca.pem");
        Self {
            host_name: hub.host_name().into(),
            pid: std::process::id(),
            ca_file: std::path::absolute(&ca_file).unwrap_or(ca_file),
            service_connection_string: hub.service_connection_string(),
            event_hub_connection_string: hub.event_hub_connection_string(),
            stream_connection_strings: hub.stream_connection_strings().into_iter().collect(),
            ports: InfoPorts {
                mqtt,
                mqtts,
                amqp,
                amqps,
                http,
                https,
                event_tap: event_tap_port(hub),
            },
            addresses,
        }
    }

    /// The start message.
    pub(crate) fn for_people(&self, devices: &[String], wanted: WantedPorts, elapsed: Duration) -> String {
        let mut text = String::new();
        let ca = self.ca_file.display();
        let [mqtt, mqtts, amqp, amqps, http, https] =
            self.addresses.map(|a| a.map_or("off".into(), |a| a.to_string()));
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "Local IoT Hub {name}, ready in {ms} ms. Stop it with Ctrl-C.

  back end   {service}
{events}{devices}  MQTT       {mqtts} (TLS), {mqtt} (plain)
  AMQP       {amqps} (TLS), {amqp} (plain)
  REST       https://{https}, http://{http}
{event_tap}  CA file    {ca}

Make SDKs trust it, then use them as with the cloud:
  Python     export SSL_CERT_FILE={ca} REQUESTS_CA_BUNDLE={ca}
  Node       export NODE_EXTRA_CA_CERTS={ca}
  .NET, Go   export SSL_CERT_FILE={ca}
  Java       keytool -importcert -noprompt -storepass changeit -alias iothub -file {ca} -keystore iothub.p12
             export JAVA_TOOL_OPTIONS=\"-Djavax.net.ssl.trustStore=iothub.p12 -Djavax.net.ssl.trustStorePassword=changeit\"
  C          give the file's text to the device client as option TrustedCerts
{port_note}
Next:
  a device   device-sim --connection-string 'HostName=…;DeviceId=…;SharedAccessKey=…'
             (start the hub with --device my-device to get one)
  a job      job-service method --name lockDoor --query '*' --delay 20s
  controls   curl http://{http}/_emulator/counters
",
            name = self.host_name,
            ms = elapsed.as_millis(),
            service = self.service_connection_string,
            events = self
                .event_hub_connection_string
                .as_ref()
                .map_or_else(String::new, |reader| format!("  telemetry  {reader}\n")),
            devices = devices.iter().fold(String::new(), |all, device| all + "  device     " + device + "\n"),
            event_tap = self.ports.event_tap.map_or_else(String::new, |port| format!(
                "  event tap  mosquitto_sub -h 127.0.0.1 -p {port} -t 'hub/#' -v\n"
            )),
            port_note = self.https_note(wanted.https) + &self.amqps_note(wanted.amqps),
        );
        text
    }

    /// What it means that 443 could not be had.
    fn https_note(&self, wanted: u16) -> String {
        match self.ports.https {
            Some(port) if wanted != 0 && port != wanted => format!(
                "
Port {wanted} could not be bound (another program has it, or this user may not), so REST and WebSockets over TLS are on {port}:
  affected      everything that cannot be told another port: the Node service and HTTP SDKs, MQTT over
                WebSockets, file upload, the Azure CLI
  not affected  devices over MQTT (port 8883); the Python service SDK with the connection string above;
                anything that uses http://…
  to allow it   sudo sysctl net.ipv4.ip_unprivileged_port_start={wanted}
                or: sudo setcap cap_net_bind_service=+ep <this program>
"
            ),
            _ => String::new(),
        }
    }

    /// What it means that 5671 could not be had.
    fn amqps_note(&self, wanted: u16) -> String {
        match self.ports.amqps {
            Some(port) if wanted != 0 && port != wanted => format!(
                "
Port {wanted} could not be bound (another program has it), so AMQP over TLS is on {port}:
  affected      everything that cannot be told another port: the Python service SDK's messages to devices
  not affected  Node SDKs with HostName={host}:{port}; MQTT and REST
",
                host = self.host_name,
            ),
            _ => String::new(),
        }
    }
}

fn event_tap_port(hub: &Hub) -> Option<u16> {
    #[cfg(feature = "event-tap")]
    let address = hub.event_tap_address();
    #[cfg(not(feature = "event-tap"))]
    let address = {
        let _ = hub;
        None::<SocketAddr>
    };
    address.map(|address| address.port())
}

/// Ports that were asked for; others are taken where they cannot be had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantedPorts {
    pub(crate) https: u16,
    pub(crate) amqps: u16,
}

/// Writes the info file in one step: whoever sees it sees all of it.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write_info(path: &Path, info: &Info) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(info)?;
    text.push(b'\n');
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}
