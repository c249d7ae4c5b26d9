//! Processes of the report: this program again in another role, or a broker.
//!
//! A child of this program prints a line of JSON when it is ready, and one in
//! answer to each line that it is sent. It ends when its input does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{fs, io};

use serde_json::Value;

/// A running process, killed with this handle.
pub(crate) struct Process(Child);

/// What the system counts for a process that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter(u32);

impl Process {
    /// Starts a program that says nothing.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }

    /// What it takes of the machine.
    pub(crate) fn meter(&self) -> Meter {
        Meter(self.0.id())
    }
}

impl Meter {
    /// Processor time of all its threads so far, in seconds: what the scheduler
    /// counts in nanoseconds, where `/proc/PID/stat` has hundredths of a second.
    /// The time of threads that have ended is missing.
    pub(crate) fn cpu(self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).expect("the process runs");
        let nanoseconds: u64 = tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .sum();
        nanoseconds as f64 / 1e9
    }

    /// Memory that is resident now, in KiB.
    pub(crate) fn resident(self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
        kib.expect("a system with /proc")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program in another role.
pub(crate) struct Role {
    pub(crate) process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Role {
    /// Starts a role and waits until it is ready; gives what it says then.
    pub(crate) fn start(arguments: &[&str]) -> (Self, Value) {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .arg("--role")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let input = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let mut role = Self {
            process: Process(child),
            input,
            output: BufReader::new(output),
            name: arguments[0].to_owned(),
        };
        let ready = role.read();
        (role, ready)
    }

    /// Sends a line and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        self.tell(line);
        self.read()
    }

    /// Sends a line; [`Role::read`] has the answer.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the role reads");
    }

    /// The next answer.
    pub(crate) fn read(&mut self) -> Value {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("the role writes");
        assert!(read > 0, "the role {:?} has ended", self.name);
        serde_json::from_str(&line).expect("a role prints JSON")
    }
}

/// The other end: calls `answer` with each line of the input and prints what it
/// gives, until the input ends.
pub(crate) fn serve(ready: &Value, mut answer: impl FnMut(&str) -> Value) {
    println!("{ready}");
    for line in io::stdin().lines() {
        let line = line.expect("the parent writes text");
        println!("{}", answer(&line));
    }
}
