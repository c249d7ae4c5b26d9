//! From the command line to a fleet.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use device_sim::transport::{ClientFiles, Endpoint, MQTT_PORT, Scheme};
use device_sim::{
    Behaviour, Credentials, Fleet, FleetBuilder, MethodAnswer, SessionSettings, Shares, Telemetry, Transport,
};
use hub_core::connection_string::{ConnectionString, Credential, Host};
use hub_core::ids::Target;
use job_service::rest::{ClientOptions, ServiceClient};
use serde_json::{Map, Value};

use crate::args::{Args, BehaviourArgs, HubArgs, Keys};

const DEVICE_VARIABLE: &str = "IOTHUB_DEVICE_CONNECTION_STRING";
const SERVICE_VARIABLE: &str = "IOTHUB_CONNECTION_STRING";

/// What the command line asks for.
pub(crate) struct Plan {
    pub(crate) builder: FleetBuilder,
    pub(crate) kind: Kind,
    /// Where the devices connect, for people.
    pub(crate) destination: String,
}

pub(crate) enum Kind {
    /// One device, named by its own connection string.
    Single,
    /// Devices of the simulator's choice.
    Fleet { registration: Option<Box<Registration>> },
}

/// What registering a fleet takes.
pub(crate) struct Registration {
    pub(crate) client: ServiceClient,
    pub(crate) credentials: Credentials,
    pub(crate) targets: Vec<Target>,
    pub(crate) tags: Map<String, Value>,
}

pub(crate) fn plan(args: &Args) -> Result<Plan> {
    let text = connection_string(args)?;
    let (host, credentials, targets) = match ConnectionString::parse(&text)? {
        ConnectionString::Device(device) => {
            ensure!(
                args.fleet.count.is_none(),
                "--count needs a service's connection string, one with a SharedAccessKeyName and no DeviceId"
            );
            let by_certificate = device.credential == Credential::Certificate;
            ensure!(
                by_certificate == args.hub.certificate.is_some(),
                "--certificate and --key belong to a connection string with x509=true"
            );
            let credentials = Credentials::device(&device);
            (
                device.gateway.unwrap_or(device.host),
                credentials,
                Some(vec![device.target]),
            )
        }
        ConnectionString::Service(service) => {
            ensure!(
                args.hub.certificate.is_none(),
                "--certificate needs a device's connection string, one with x509=true"
            );
            let credentials = match args.fleet.keys {
                Keys::Own => Credentials::derived(&service),
                Keys::Policy => Credentials::policy(&service),
            };
            // A port in a service's connection string is that of HTTPS.
            (Host::parse(service.host.name())?, credentials, None)
        }
    };
    let credentials = credentials.with_lifetime(args.behaviour.token_lifetime);
    let transport = transport(&args.hub, &host)?;
    let destination = transport.to_string();
    let builder = Fleet::builder(transport, credentials.clone())
        .behaviour(behaviour(&args.behaviour)?)
        .seed(args.fleet.seed)
        .ramp(args.fleet.ramp)
        .concurrent_connects(args.fleet.concurrent_connects.get())
        .shares(Shares {
            offline: args.fleet.offline,
            failing: args.fleet.failing,
            silent: args.fleet.silent,
        })
        .settings(SessionSettings {
            keep_alive_seconds: args.behaviour.keep_alive,
            read_twin: !args.behaviour.no_twin,
            // One device shows all that there is; of a fleet only what is counted.
            receive_messages: targets.is_some(),
            ..SessionSettings::default()
        });
    let (builder, kind) = match targets {
        Some(targets) => (builder.targets(targets), Kind::Single),
        None => {
            let builder = builder.numbered(&args.fleet.prefix, args.fleet.count.unwrap_or(10));
            let registration = if args.fleet.no_register {
                None
            } else {
                Some(Box::new(Registration {
                    client: service_client(&text, &args.hub)?,
                    credentials,
                    targets: builder
                        .all_targets()
                        .context("--prefix makes no legal device ids")?,
                    tags: tags(args)?,
                }))
            };
            (builder, Kind::Fleet { registration })
        }
    };
    Ok(Plan {
        builder,
        kind,
        destination,
    })
}

fn connection_string(args: &Args) -> Result<String> {
    if let Some(text) = &args.connection_string {
        return Ok(text.clone());
    }
    let variables = match args.fleet.count {
        Some(_) => [SERVICE_VARIABLE, DEVICE_VARIABLE],
        None => [DEVICE_VARIABLE, SERVICE_VARIABLE],
    };
    let found = variables
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    match found {
        Some(text) => Ok(text),
        None => bail!(
            "no connection string: give --connection-string, or set {DEVICE_VARIABLE} or {SERVICE_VARIABLE}; \
             --help has examples"
        ),
    }
}

fn transport(args: &HubArgs, host: &Host) -> Result<Transport> {
    let chosen = args.transport.map(Scheme::from);
    let (scheme, host) = match &args.mqtt {
        None => (chosen, host),
        Some(Endpoint { scheme, host }) => {
            if let (Some(said), Some(chosen)) = (scheme, chosen) {
                ensure!(*said == chosen, "--mqtt and --transport contradict each other");
            }
            let by_port = (host.port() == Some(MQTT_PORT)).then_some(Scheme::Tcp);
            (scheme.or(chosen).or(by_port), host)
        }
    };
    match scheme {
        Some(Scheme::Tcp) => {
            ensure!(args.certificate.is_none(), "--certificate needs TLS");
            Ok(Transport::tcp(host))
        }
        None | Some(Scheme::Tls) => {
            let ca_file = args.ca_file.as_deref();
            Ok(match (&args.certificate, &args.key) {
                (Some(certificate), Some(key)) => {
                    let client = ClientFiles { certificate, key };
                    Transport::tls_with_certificate(host, ca_file, &client)?
                }
                _ => Transport::tls(host, ca_file)?,
            })
        }
    }
}

fn behaviour(args: &BehaviourArgs) -> Result<Behaviour> {
    let mut behaviour = match &args.behaviour {
        None => Behaviour::default(),
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Behaviour::from_json(&text).with_context(|| format!("cannot use {}", path.display()))?
        }
    };
    for text in &args.method {
        let (name, answer) =
            MethodAnswer::parse(text).with_context(|| format!("cannot use --method {text}"))?;
        behaviour = behaviour.with_method(&name, answer);
    }
    if args.reflect {
        behaviour = behaviour.with_reflection();
    }
    if let Some(interval) = args.telemetry {
        behaviour = behaviour.with_telemetry(Telemetry::every(interval));
    }
    Ok(behaviour)
}

fn service_client(connection_string: &str, args: &HubArgs) -> Result<ServiceClient> {
    let ca_pem = match &args.ca_file {
        None => None,
        Some(path) => Some(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?),
    };
    let options = ClientOptions {
        endpoint: args.endpoint.clone(),
        ca_pem,
    };
    Ok(ServiceClient::new(connection_string, &options)?)
}

fn tags(args: &Args) -> Result<Map<String, Value>> {
    match &args.fleet.tags {
        None => Ok(Map::new()),
        Some(text) => serde_json::from_str(text).context("--tags is not a JSON object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn planned(text: &str, more: &[&str]) -> Result<Plan> {
        let text = format!("{text};SharedAccessKey={KEY}");
        let start = ["device-sim", "--connection-string", &text];
        plan(&Args::try_parse_from(start.iter().chain(more)).unwrap())
    }

    #[test]
    fn a_devices_string_is_one_device() {
        let plan = planned("HostName=hub;DeviceId=dev1", &["--transport", "tcp"]).unwrap();
        assert!(matches!(plan.kind, Kind::Single));
        assert_eq!(plan.destination, "mqtt://hub:1883");
        assert_eq!(plan.builder.all_targets().unwrap()[0].to_string(), "dev1");
        assert!(planned("HostName=hub;DeviceId=dev1", &["--count", "3"]).is_err());
    }

    #[test]
    fn a_services_string_is_a_fleet_to_be_registered() {
        let more = [
            "--transport=tcp",
            "--count=3",
            "--prefix=x",
            "--endpoint=http://hub:8080",
        ];
        let plan = planned("HostName=hub:8443;SharedAccessKeyName=o", &more).unwrap();
        assert_eq!(plan.destination, "mqtt://hub:1883");
        let Kind::Fleet {
            registration: Some(registration),
        } = plan.kind
        else {
            panic!("nothing to register");
        };
        let names: Vec<String> = registration.targets.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["x00000", "x00001", "x00002"]);
    }

    #[test]
    fn addresses_override_the_connection_strings_host() {
        for (more, destination) in [
            (&["--mqtt=other:1883"][..], "mqtt://other:1883"),
            (&["--mqtt=mqtt://other:99"], "mqtt://other:99"),
            (&["--mqtt=other:99", "--transport=tcp"], "mqtt://other:99"),
        ] {
            let plan = planned("HostName=hub;DeviceId=d;GatewayHostName=gw", more).unwrap();
            assert_eq!(plan.destination, destination);
        }
        let plan = planned("HostName=hub;DeviceId=d;GatewayHostName=gw", &["--transport=tcp"]).unwrap();
        assert_eq!(plan.destination, "mqtt://gw:1883");
        let contradiction = ["--mqtt=mqtt://other", "--transport=tls"];
        assert!(planned("HostName=hub;DeviceId=d", &contradiction).is_err());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (more, word) in [
            (&["--transport=tcp", "--method=x"][..], "--method x"),
            (&["--transport=tcp", "--behaviour=no-such-file"], "no-such-file"),
            (&["--ca-file=no-such-file"], "no-such-file"),
            (&["--certificate=c", "--key=k"], "x509=true"),
        ] {
            let error = planned("HostName=hub;DeviceId=d", more).err().unwrap();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }

    #[test]
    fn a_certificate_goes_with_its_connection_string_and_tls() {
        let text = "--connection-string=HostName=hub;DeviceId=d;x509=true";
        for (more, word) in [
            (&[][..], "--certificate"),
            (&["--certificate=no-such-file", "--key=k"], "no-such-file"),
            (&["--certificate=c", "--key=k", "--transport=tcp"], "TLS"),
        ] {
            let args = ["device-sim", text]
                .iter()
                .chain(more)
                .copied()
                .collect::<Vec<_>>();
            let error = plan(&Args::try_parse_from(args).unwrap()).err().unwrap();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        let half = ["device-sim", text, "--certificate=c"];
        assert!(Args::try_parse_from(half).is_err());
    }
}
