//! The program as its users run it, against a hub over real sockets: what goes
//! to which stream, and how it ends.

// A failure in a test's helper is a failure of the test.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use emulator::Hub;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

/// How a run of the program ended.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("no JSON: {}{}", self.out, self.err))
    }
}

async fn run(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_job-service"));
    command
        .env_remove("IOTHUB_CONNECTION_STRING")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(60), command.output())
        .await
        .unwrap()
        .unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A hub with devices: `a`, `b` and `full`, whose tags take nothing more.
struct Bench {
    hub: Hub,
    connection: String,
    endpoint: String,
}

impl Bench {
    async fn start() -> Self {
        let hub = Hub::builder().start().await.unwrap();
        let tags: serde_json::Map<String, Value> = (0..680).map(|n| (format!("{n:04}"), json!(n))).collect();
        let devices = [
            json!({"deviceId": "a", "tags": {"building": "43"}}),
            json!({"deviceId": "b", "tags": {"building": "43"}}),
            json!({"deviceId": "full", "tags": tags}),
        ];
        hub.import(&devices.map(|device| device.to_string()).join("\n"))
            .unwrap();
        Self {
            connection: hub.service_connection_string(),
            endpoint: format!("http://{}", hub.http_address().unwrap()),
            hub,
        }
    }

    async fn run(&self, arguments: &[&str]) -> Run {
        let hub = [
            "--connection-string",
            &self.connection,
            "--endpoint",
            &self.endpoint,
        ];
        run(&[&hub[..], arguments].concat()).await
    }
}

/// A twin job that every device takes unless its tags are full.
const NOTE: [&str; 3] = [
    "twin",
    "--tags",
    r#"{"note":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#,
];

#[tokio::test]
async fn success_is_0_and_the_result_is_all_there_is() {
    let bench = Bench::start().await;
    let done = bench
        .run(&[&NOTE[..], &["--query", "tags.building = '43'", "--id", "j"]].concat())
        .await;
    assert_eq!((done.code, &*done.err), (0, ""), "no terminal, no progress");
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(
        lines[..3],
        [
            "job      j",
            "does     twin update",
            "over     tags.building = '43'"
        ]
    );
    assert!(lines.contains(&"status   completed"), "{}", done.out);
    assert_eq!(lines.last(), Some(&"devices  2 selected, 2 succeeded"));

    for place in ["hub", "here"] {
        let done = bench
            .run(
                &[
                    &NOTE[..],
                    &["--query", "deviceId IN ['a']", "--output", "json", "--run", place],
                ]
                .concat(),
            )
            .await;
        assert_eq!((done.code, &*done.err), (0, ""));
        let job = done.json();
        assert_eq!(job["status"], "completed");
        assert_eq!(job["deviceJobStatistics"]["succeededCount"], 1);
        assert_eq!(job["failures"], json!([]));
    }
}

#[tokio::test]
async fn failures_are_1_and_grouped_by_cause() {
    let bench = Bench::start().await;
    // Some devices.
    for place in ["hub", "here"] {
        let done = bench
            .run(&[&NOTE[..], &["--query", "*", "--output", "json", "--run", place]].concat())
            .await;
        assert_eq!((done.code, &*done.err), (1, ""));
        let job = done.json();
        assert_eq!(job["status"], "completed");
        let failure = &job["failures"][0];
        assert_eq!(
            (&failure["code"], &failure["count"], &failure["examples"]),
            (&json!("ArgumentInvalid"), &json!(1), &json!(["full"]))
        );
    }
    // All of them, and then the job.
    let method = [
        "method",
        "--name",
        "lockDoor",
        "--payload",
        r#"{"lockTime":"10m"}"#,
    ];
    let done = bench
        .run(&[&method[..], &["--query", "*", "--id", "m"]].concat())
        .await;
    assert_eq!((done.code, &*done.err), (1, ""));
    let table = "\nFAILED  CAUSE            DESCRIPTION                               FOR EXAMPLE\n\
                 3       DeviceNotOnline  Timed out waiting for device to connect.  a, b, full\n";
    assert!(
        done.out.contains("status   failed\n") && done.out.ends_with(table),
        "{}",
        done.out
    );
    let watched = bench.run(&["watch", "m"]).await;
    assert_eq!((watched.code, watched.out), (1, done.out));
    // A job that cannot run.
    let done = bench.run(&[&NOTE[..], &["--query", "tags.a ="]].concat()).await;
    assert_eq!(done.code, 1);
    assert!(
        done.out.contains("reason   SQL query parse failed"),
        "{}",
        done.out
    );
}

#[tokio::test]
async fn trouble_is_2_and_goes_to_standard_error() {
    let bench = Bench::start().await;
    let nowhere = ["--endpoint", "http://127.0.0.1:9"];
    let connection = ["--connection-string", &bench.connection];
    for (run, text) in [
        (run(&["list"]).await, "error: no hub: give --connection-string"),
        (
            run(&["--connection-string", "x", "list"]).await,
            "error: the connection string cannot be read",
        ),
        (
            run(&[&connection[..], &nowhere, &["list"]].concat()).await,
            "error: the hub cannot be reached",
        ),
        (
            run(&["twin", "--query", "*"]).await,
            "error: the following required",
        ),
        (
            run(&["forecast", "--sku", "S9", "--devices", "1"]).await,
            "error: invalid value",
        ),
        (
            run(&["--ca-file", "/no/such", "--connection-string", "x", "list"]).await,
            "error: /no/such",
        ),
        (
            bench.run(&["watch", "nobody"]).await,
            "error: the hub knows no job nobody",
        ),
        (
            bench.run(&["devices", "nobody"]).await,
            "error: the hub knows no job nobody",
        ),
        (bench.run(&["cancel", "nobody"]).await, "error: JobNotFound"),
        (
            bench.run(&["list", "--status", "done"]).await,
            "error: ArgumentInvalid",
        ),
        (
            bench
                .run(&[
                    "method",
                    "--name",
                    "m",
                    "--query",
                    "*",
                    "--response-timeout",
                    "1s",
                ])
                .await,
            "error: ArgumentInvalid",
        ),
    ] {
        assert_eq!((run.code, &*run.out), (2, ""), "{text}");
        assert!(run.err.starts_with(text), "{text}: {}", run.err);
    }
    let help = run(&["--help"]).await;
    assert_eq!((help.code, &*help.err), (0, ""));
    for status in [
        "  0  the job completed",
        "  1  the job failed",
        "  2  wrong arguments",
    ] {
        assert!(help.out.contains(status), "{}", help.out);
    }
}

#[tokio::test]
async fn a_job_for_later_is_left_to_the_hub() {
    let bench = Bench::start().await;
    let later = [
        "--query", "*", "--delay", "1h", "--detach", "--id", "later", "--output", "json",
    ];
    let created = bench.run(&[&NOTE[..], &later].concat()).await;
    assert_eq!(created.code, 0, "{}", created.err);
    assert_eq!(created.json()["jobId"], "later");
    let again = bench.run(&[&NOTE[..], &later].concat()).await;
    assert_eq!((again.code, &*again.out), (2, ""));
    assert!(again.err.starts_with("error: JobAlreadyExists"), "{}", again.err);

    assert!(
        bench
            .run(&["devices", "later"])
            .await
            .out
            .starts_with("no devices")
    );
    let other = ["--query", "*", "--delay", "2h", "--detach", "--id", "other"];
    assert_eq!(bench.run(&[&NOTE[..], &other].concat()).await.code, 0);
    let cancelled = bench.run(&["cancel", "other"]).await;
    assert_eq!(cancelled.code, 0);
    assert!(cancelled.out.contains("status  cancelled"), "{}", cancelled.out);
    assert_eq!(bench.run(&["cancel", "other"]).await.code, 2);
    assert_eq!(
        bench.run(&["watch", "other"]).await.code,
        1,
        "a cancelled job is no success"
    );

    bench.hub.advance_clock(Duration::from_secs(3600));
    let watched = bench.run(&["watch", "later", "--output", "json"]).await;
    assert_eq!(watched.code, 1);
    assert_eq!(watched.json()["deviceJobStatistics"]["failedCount"], 1);
    let devices = bench.run(&["devices", "later", "--output", "json"]).await;
    assert_eq!((devices.code, devices.json().as_array().unwrap().len()), (0, 3));
    let listed = bench.run(&["list", "--output", "json"]).await.json();
    let ids: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["jobId"])
        .collect();
    assert_eq!(ids, ["other", "later"]);
    let listed = bench
        .run(&["list", "--status", "completed", "--type", "scheduleUpdateTwin"])
        .await;
    assert_eq!(
        (listed.code, listed.out.lines().count()),
        (0, 2),
        "{}",
        listed.out
    );
    assert_eq!(bench.run(&["list", "--status", "failed"]).await.out, "no jobs\n");
}

#[tokio::test]
async fn a_hub_with_tls_needs_a_connection_string_and_trust() {
    let bench = Bench::start().await;
    let ca = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("hub-ca.pem");
    std::fs::write(&ca, bench.hub.ca_pem()).unwrap();
    let endpoint = format!("https://localhost:{}", bench.hub.https_address().unwrap().port());
    let call = [
        "--connection-string",
        &*bench.connection,
        "--endpoint",
        &endpoint,
        "list",
    ];
    let refused = run(&call).await;
    assert_eq!(refused.code, 2);
    let trusting = run(&[&["--ca-file", ca.to_str().unwrap()], &call[..]].concat()).await;
    assert_eq!(
        (trusting.code, &*trusting.out),
        (0, "no jobs\n"),
        "{}",
        trusting.err
    );
    // A key that is not the policy's.
    let (head, _) = bench.connection.split_once("SharedAccessKey=").unwrap();
    let forged = format!("{head}SharedAccessKey=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let refused = run(&[
        "--connection-string",
        &forged,
        "--endpoint",
        &bench.endpoint,
        "list",
    ])
    .await;
    assert_eq!((refused.code, &*refused.out), (2, ""));
}

#[tokio::test]
async fn a_forecast_needs_no_hub() {
    let forecast = run(&["forecast", "--sku", "S1", "--devices", "10000"]).await;
    assert_eq!((forecast.code, &*forecast.err), (0, ""));
    assert!(
        forecast.out.ends_with("10000 devices     at least 1000 s\n"),
        "{}",
        forecast.out
    );
    let basic = run(&["forecast", "--sku", "b1", "--devices", "10", "--output", "json"]).await;
    assert_eq!(basic.code, 0, "{}", basic.err);
    assert_eq!(basic.json()["forecast"]["seconds"], Value::Null);
}
