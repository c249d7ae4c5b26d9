//! The hub under test: the released program in a process of its own, or a hub
//! that shares its process with its devices, over connections in memory. Either
//! way its devices are registered, each with tags and a desired property.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use device_sim::Credentials;
use emulator::{DEVELOPMENT_KEY, Hub, OWNER_POLICY, Ports};
use hub_core::connection_string::{ConnectionString, ServiceConnection};
use hub_core::ids::{DeviceId, Target};
use serde_json::{Value, json};

use super::child::{self, Process};
use super::device_id;
use super::fleet::{Plan, Reach, Running};

/// How long the program may take to register its devices and be ready.
const START: Duration = Duration::from_secs(60);

/// The program of the hub as users have it.
pub(crate) struct Program(PathBuf);

/// The program, running.
pub(crate) struct RunningHub {
    pub(crate) process: Process,
    /// What it says of itself: its info file.
    pub(crate) info: Value,
}

impl Program {
    /// Builds it, as `cargo build --release` does.
    pub(crate) fn build() -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let arguments = "build --release --locked --quiet -p emulator --bin iothub-emulator";
        let built = Command::new(cargo)
            .args(arguments.split(' '))
            .current_dir(&workspace)
            .status();
        assert!(built.is_ok_and(|status| status.success()), "the hub builds");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), Into::into);
        Self(target.join("release/iothub-emulator"))
    }

    /// Starts it on free ports, with `devices` devices, and waits until it is
    /// ready; `directory` is for its files.
    pub(crate) fn start(&self, devices: usize, directory: &Path) -> RunningHub {
        let (info, identities) = (directory.join("info.json"), directory.join("devices.jsonl"));
        // A missing file is what is waited for.
        let _ = fs::remove_file(&info);
        fs::write(&identities, identities_text(devices)).expect("a directory of our own");
        let mut command = Command::new(&self.0);
        for port in ["mqtt", "mqtts", "amqp", "amqps", "http", "https"] {
            command.args([&format!("--{port}-port"), "0"]);
        }
        command.arg("--data-dir").arg(directory.join("hub"));
        command.arg("--info-file").arg(&info);
        if devices > 0 {
            command.arg("--init-file").arg(&identities);
        }
        let process = Process::start(&mut command).expect("the hub starts");
        let end = Instant::now() + START;
        while !info.exists() {
            assert!(Instant::now() < end, "the hub does not start");
            std::thread::sleep(Duration::from_micros(200));
        }
        let text = fs::read_to_string(&info).expect("the info file is whole");
        RunningHub {
            process,
            info: serde_json::from_str(&text).expect("the info file is JSON"),
        }
    }

    /// Its size in MiB without symbols; nothing where there is no `strip`.
    pub(crate) fn stripped_mib(&self, directory: &Path) -> Option<f64> {
        let stripped = directory.join("iothub-emulator");
        let strip = Command::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(&self.0)
            .status();
        strip.ok().filter(std::process::ExitStatus::success)?;
        Some(fs::metadata(&stripped).ok()?.len() as f64 / f64::from(1 << 20))
    }
}

/// The back end's way into a hub that has the development key.
pub(crate) fn service(host: &str) -> ServiceConnection {
    let text =
        format!("HostName={host};SharedAccessKeyName={OWNER_POLICY};SharedAccessKey={DEVELOPMENT_KEY}");
    match ConnectionString::parse(&text) {
        Ok(ConnectionString::Service(service)) => service,
        other => panic!("not a service connection string: {other:?}"),
    }
}

/// The devices, a line of JSON each.
fn identities_text(devices: usize) -> String {
    let credentials = Credentials::derived(&service("localhost"));
    let lines = (0..devices).map(|number| {
        let id = device_id(number);
        let target = Target::device(DeviceId::parse(&id).expect("a legal id"));
        let key = credentials
            .device_key(&target)
            .expect("a derived key")
            .to_base64();
        let identity = json!({
            "deviceId": id,
            "authentication": {"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}},
            "tags": {"fleet": "bench", "building": number % 100},
            "properties": {"desired": {"interval": 60}},
        });
        format!("{identity}\n")
    });
    lines.collect()
}

/// The role `memory DEVICES`: hub and fleet in one process. Says where REST is,
/// and then obeys as a fleet does.
pub(crate) fn run_in_memory(arguments: &[String]) {
    let devices: usize = arguments[0].parse().expect("a number");
    let runtime = benches::runtime();
    let hub = runtime.block_on(Hub::builder().ports(Ports::ANY).start());
    let hub = hub.expect("the hub starts");
    hub.import(&identities_text(devices))
        .expect("the devices are legal");
    let reach = Reach::Memory(hub.memory_connector());
    let (running, connected) =
        Running::connect(&runtime, Plan::of_hub(reach, &service("localhost"), devices));
    let http = hub.http_address().map(|address| address.to_string());
    let ready = json!({"http": http, "connected": connected});
    child::serve(&ready, |line| running.obey(&runtime, line));
}
