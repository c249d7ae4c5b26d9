//! The scenario as its users run it, at full size over memory and at a tenth
//! over real TCP.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

/// Runs the program and gives its figures.
async fn scenario(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scenario"));
    command
        .args(arguments)
        .arg("--json")
        .args(["--delay", "0"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(240), command.output())
        .await
        .unwrap()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check(figures: &Value, devices: u64) {
    assert_eq!(figures["ok"], true, "{figures}");
    assert_eq!(figures["devicesThatReceivedMethod"], devices);
    assert_eq!(figures["devicesWithDesired"], devices);
    assert_eq!(figures["connect"]["devices"], devices);
    let jobs = figures["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        assert_eq!(job["status"], "completed");
        assert_eq!((&job["succeeded"], &job["failed"]), (&devices.into(), &0.into()));
    }
    // The hub's own count: one real method response and no violation.
    let counters = &figures["hubCounters"];
    assert_eq!(counters["methodResponses"], devices);
    assert_eq!(counters["connectsAccepted"], devices);
    assert_eq!(counters["protocolViolations"], 0);
}

#[tokio::test]
async fn ten_thousand_devices_in_memory() {
    check(
        &scenario(&["--devices", "10000", "--transport", "memory"]).await,
        10_000,
    );
}

#[tokio::test]
async fn a_thousand_devices_over_tcp_from_a_process_of_their_own() {
    check(
        &scenario(&["--devices", "1000", "--transport", "tcp"]).await,
        1_000,
    );
}

#[tokio::test]
async fn the_latencies_are_drawn_on_request() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scenario.svg");
    let _ = std::fs::remove_file(&path);
    let common = ["--devices", "20", "--transport", "memory", "--plot"];
    let arguments: Vec<&str> = common.into_iter().chain(path.to_str()).collect();
    check(&scenario(&arguments).await, 20);
    let svg = std::fs::read_to_string(&path).unwrap();
    for phase in ["connect", "scheduleUpdateTwin", "scheduleDeviceMethod"] {
        assert!(svg.contains(&format!("{phase}: 20, p50 ")), "{phase}");
    }
}

#[tokio::test]
async fn a_plot_that_cannot_be_written_fails_after_the_figures() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no such directory/scenario.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_scenario"))
        .args([
            "--devices",
            "1",
            "--transport",
            "memory",
            "--delay",
            "0",
            "--json",
            "--plot",
        ])
        .arg(&path)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    check(&serde_json::from_slice(&output.stdout).unwrap(), 1);
    let errors = String::from_utf8(output.stderr).unwrap();
    let expected = format!("scenario: the plot cannot be written to {}: ", path.display());
    assert!(errors.starts_with(&expected), "{errors}");
}

#[tokio::test]
async fn a_bad_argument_is_a_usage_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_scenario"))
        .args(["--devices", "0"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
