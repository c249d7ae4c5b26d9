//! The engine against a model: random histories of jobs and devices, on a clock
//! and a fleet that move only when the test says so.
//!
//! After each step the engine comes to rest and must show exactly what the
//! model says. The model is written from the job's side alone and shares no
//! code with the rules: a job is a list of devices with a word for each.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokio::sync::oneshot;

use super::*;

const JOBS: usize = 4;
const DEVICES: usize = 4;
const MAX_RUNNING: usize = 2;
const FAN_OUT: usize = 2;
const WINDOW: u64 = 60;

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A client creates a job that starts in so many seconds, of the past too.
    Create {
        job: usize,
        delay: i64,
    },
    Cancel {
        job: usize,
    },
    Connect {
        device: usize,
    },
    Disconnect {
        device: usize,
    },
    /// The device answers the call that it has had the longest.
    Answer {
        device: usize,
    },
    /// The call that the device has had the longest is given up.
    TimeOut {
        device: usize,
    },
    Advance {
        seconds: u64,
    },
    /// Takes back every advance.
    SetBack,
}

fn step() -> impl Strategy<Value = Step> {
    let (job, device) = (0..JOBS, 0..DEVICES);
    prop_oneof![
        4 => (job.clone(), prop_oneof![Just(0), -100_i64..100]).prop_map(|(job, delay)| Step::Create { job, delay }),
        1 => job.prop_map(|job| Step::Cancel { job }),
        3 => device.clone().prop_map(|device| Step::Connect { device }),
        1 => device.clone().prop_map(|device| Step::Disconnect { device }),
        6 => device.clone().prop_map(|device| Step::Answer { device }),
        1 => device.prop_map(|device| Step::TimeOut { device }),
        3 => (0_u64..45).prop_map(|seconds| Step::Advance { seconds }),
        1 => Just(Step::SetBack),
    ]
}

/// Takes a device's answer to one call, or why there is none.
type Call = oneshot::Sender<Result<MethodResponse, ServiceError>>;

/// Devices that are in the fleet while they are connected, and answer when
/// they are told to.
#[derive(Default)]
struct HandFleet {
    connected: Mutex<[bool; DEVICES]>,
    calls: Mutex<[VecDeque<Call>; DEVICES]>,
}

impl HandFleet {
    /// Ends the oldest call of a device that still waits, if there is one.
    fn end_call(&self, device: usize, result: Result<MethodResponse, ServiceError>) {
        let mut calls = self.calls.lock().unwrap();
        let queue = &mut calls[device];
        while let Some(call) = queue.pop_front() {
            if !call.is_closed() {
                call.send(result).unwrap();
                return;
            }
        }
    }
}

impl Fleet for HandFleet {
    async fn query(&self, _: &str) -> Result<Vec<Target>, ServiceError> {
        let connected = self.connected.lock().unwrap();
        Ok((0..DEVICES)
            .filter(|n| connected[*n])
            .map(|n| target(&format!("d{n}")))
            .collect())
    }

    async fn update_twin(&self, _: &Target, _: &TwinUpdate) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn invoke_method(
        &self,
        target: &Target,
        call: &MethodCall,
    ) -> Result<MethodResponse, ServiceError> {
        let device: usize = target.device.as_str()[1..].parse().unwrap();
        if !self.connected.lock().unwrap()[device] {
            return Err(method::not_online(call.connect_timeout));
        }
        let (answer, answered) = oneshot::channel();
        self.calls.lock().unwrap()[device].push_back(answer);
        answered.await.unwrap()
    }
}

/// A job of the model.
#[derive(Debug, Clone)]
struct ModelJob {
    number: usize,
    start: i64,
    status: &'static str,
    window_end: i64,
    /// Device and what became of it, in the order in which they are taken up.
    devices: Vec<(usize, &'static str)>,
}

impl ModelJob {
    fn count(&self, words: &[&str]) -> usize {
        self.devices
            .iter()
            .filter(|(_, word)| words.contains(word))
            .count()
    }

    fn is_over(&self) -> bool {
        matches!(self.status, "completed" | "failed" | "cancelled")
    }
}

/// What should be.
#[derive(Debug, Default)]
struct Model {
    cancel_running: CancelRunning,
    now: i64,
    /// What passed, whether or not it was taken back.
    elapsed: i64,
    created: usize,
    jobs: BTreeMap<usize, ModelJob>,
    connected: [bool; DEVICES],
    /// Jobs that wait for a device's answer, the oldest call first.
    calls: [VecDeque<usize>; DEVICES],
}

impl Model {
    /// The end of the oldest call of a device.
    fn end_call(&mut self, device: usize, word: &'static str) {
        if let Some(job) = self.calls[device].pop_front() {
            let job = self.jobs.get_mut(&job).unwrap();
            job.devices.iter_mut().find(|(n, _)| *n == device).unwrap().1 = word;
        }
    }

    fn forget_calls(&mut self, job: usize) {
        for calls in &mut self.calls {
            calls.retain(|caller| *caller != job);
        }
    }

    /// Everything that follows by itself at this time.
    fn settle(&mut self) {
        loop {
            let ids: Vec<usize> = self.jobs.keys().copied().collect();
            for id in &ids {
                self.close_window(*id);
            }
            let mut due: Vec<(i64, usize, usize)> = Vec::new();
            for (id, job) in &mut self.jobs {
                if job.status == "scheduled" && job.start <= self.now {
                    job.status = "enqueued";
                }
                if job.status == "enqueued" {
                    due.push((job.start, job.number, *id));
                }
            }
            due.sort_unstable();
            let running = self.jobs.values().filter(|job| job.status == "running").count();
            let started: Vec<usize> = due.iter().map(|due| due.2).take(MAX_RUNNING - running).collect();
            for id in &started {
                let job = self.jobs.get_mut(id).unwrap();
                job.status = "running";
                job.window_end = self.elapsed + WINDOW as i64;
                job.devices = (0..DEVICES)
                    .filter(|n| self.connected[*n])
                    .map(|n| (n, "pending"))
                    .collect();
            }
            let mut ended = false;
            // In the order in which they began: devices hear of them in it.
            for id in started.iter().copied().chain(ids) {
                ended |= self.take_up(id);
            }
            if started.is_empty() && !ended {
                return;
            }
        }
    }

    fn close_window(&mut self, id: usize) {
        let job = self.jobs.get_mut(&id).unwrap();
        if job.status == "running" && job.window_end <= self.elapsed {
            for (_, word) in &mut job.devices {
                if matches!(*word, "pending" | "running") {
                    *word = "JobTimedOut";
                }
            }
            self.forget_calls(id);
        }
    }

    /// Goes on with a job's devices; whether it ended.
    fn take_up(&mut self, id: usize) -> bool {
        let job = self.jobs.get_mut(&id).unwrap();
        if job.status != "running" {
            return false;
        }
        for n in 0..job.devices.len() {
            if job.devices[n].1 == "pending" && job.count(&["running"]) < FAN_OUT {
                let device = job.devices[n].0;
                if self.connected[device] {
                    job.devices[n].1 = "running";
                    self.calls[device].push_back(id);
                } else {
                    job.devices[n].1 = "DeviceNotOnline";
                }
            }
        }
        if job.count(&["pending", "running"]) > 0 {
            return false;
        }
        job.status = if job.devices.is_empty() || job.count(&["completed"]) > 0 {
            "completed"
        } else {
            "failed"
        };
        true
    }

    fn create(&mut self, job: usize, start: i64) -> Result<(), ErrorCode> {
        if self.jobs.contains_key(&job) {
            return Err(ErrorCode::JobAlreadyExists);
        }
        self.created += 1;
        let job_of_now = ModelJob {
            number: self.created,
            start,
            status: "scheduled",
            window_end: 0,
            devices: Vec::new(),
        };
        self.jobs.insert(job, job_of_now);
        Ok(())
    }

    fn cancel(&mut self, id: usize) -> Result<(), ErrorCode> {
        let job = self.jobs.get_mut(&id).ok_or(ErrorCode::JobNotFound)?;
        if job.is_over() || job.status == "running" && self.cancel_running == CancelRunning::Refused {
            return Err(ErrorCode::JobRunPreconditionFailed);
        }
        job.status = "cancelled";
        for (_, word) in &mut job.devices {
            if matches!(*word, "pending" | "running") {
                *word = "canceled";
            }
        }
        self.forget_calls(id);
        Ok(())
    }
}

/// The engine with its model beside it.
struct Pair {
    fleet: Arc<HandFleet>,
    clock: Clock,
    engine: JobEngine<HandFleet>,
    model: Model,
}

impl Pair {
    fn new(cancel_running: CancelRunning) -> Self {
        let fleet = Arc::new(HandFleet::default());
        let clock = Clock::manual(start());
        let settings = EngineSettings {
            fan_out: FAN_OUT,
            running_jobs: MAX_RUNNING,
            cancel_running,
            ..EngineSettings::default()
        };
        Self {
            engine: JobEngine::new(fleet.clone(), clock.clone(), settings),
            fleet,
            clock,
            model: Model {
                cancel_running,
                ..Model::default()
            },
        }
    }

    async fn carry_out(&mut self, step: &Step) {
        match *step {
            Step::Create { job: n, delay } => {
                let starts = self.model.now + delay;
                let time = Timestamp::from_unix_seconds(start().unix_seconds() + starts);
                let request = job(
                    &format!("j{n}"),
                    &json!({ "startTime": time, "maxExecutionTimeInSeconds": WINDOW }),
                );
                let created = self.engine.create(request).map(drop).map_err(|e| e.code);
                assert_eq!(created, self.model.create(n, starts));
            }
            Step::Cancel { job } => {
                let cancelled = self
                    .engine
                    .cancel(&id(&format!("j{job}")))
                    .map(drop)
                    .map_err(|e| e.code);
                assert_eq!(cancelled, self.model.cancel(job));
            }
            Step::Connect { device } | Step::Disconnect { device } => {
                let connected = matches!(step, Step::Connect { .. });
                self.fleet.connected.lock().unwrap()[device] = connected;
                self.model.connected[device] = connected;
            }
            Step::Answer { device } => {
                let response = MethodResponse {
                    status: 200,
                    payload: JsonText::NULL,
                };
                self.fleet.end_call(device, Ok(response));
                self.model.end_call(device, "completed");
            }
            Step::TimeOut { device } => {
                let error = ServiceError::new(ErrorCode::GatewayTimeout, "no answer");
                self.fleet.end_call(device, Err(error));
                self.model.end_call(device, "GatewayTimeout");
            }
            Step::Advance { seconds } => {
                self.clock.advance(Duration::from_secs(seconds));
                self.model.now += seconds as i64;
                self.model.elapsed += seconds as i64;
            }
            Step::SetBack => {
                self.clock.reset();
                self.model.now = 0;
            }
        }
        self.model.settle();
        // One thread: when nobody has anything left to do, this comes last.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    fn compare(&self) {
        let page = self.engine.list(&JobFilter::default(), None, JOBS);
        assert_eq!(page.next, None);
        let mut expected: Vec<(&usize, &ModelJob)> = self.model.jobs.iter().collect();
        expected.sort_by_key(|(_, job)| std::cmp::Reverse(job.number));
        assert_eq!(page.jobs.len(), expected.len());
        for (view, (n, model)) in page.jobs.iter().zip(expected) {
            assert_eq!(view.request.id.as_str(), format!("j{n}"));
            assert_eq!(view.status.name(), model.status, "{model:?}");
            assert_eq!(view.ended.is_some(), model.is_over());
            let has_run = model.window_end > 0;
            assert_eq!(view.statistics.is_some(), has_run);
            let statistics = view.statistics.unwrap_or_default();
            assert_eq!(statistics.device_count, model.devices.len());
            assert_eq!(statistics.pending_count, model.count(&["pending"]));
            assert_eq!(statistics.running_count, model.count(&["running"]));
            assert_eq!(statistics.succeeded_count, model.count(&["completed"]));
            assert_eq!(
                statistics.pending_count + statistics.running_count + statistics.finished_count(),
                statistics.device_count
            );
            let mut records = Vec::new();
            self.engine
                .for_each_record(Some(std::slice::from_ref(&view.request.id)), None, |view| {
                    let word = match &view.record.state {
                        RecordState::Failed(error) => error.code.name(),
                        state => state.name(),
                    };
                    assert_eq!(
                        view.record.state.is_final(),
                        view.record.ended != Timestamp::NEVER
                    );
                    records.push((view.record.target.to_string(), word));
                    ControlFlow::Continue(())
                });
            let expected: Vec<_> = model
                .devices
                .iter()
                .map(|(n, word)| (format!("d{n}"), *word))
                .collect();
            assert_eq!(records, expected, "{model:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: RngSeed::Fixed(2026), ..ProptestConfig::default() })]
    #[test]
    fn the_engine_does_what_the_model_says(
        steps in prop::collection::vec(step(), 1..60),
        cancel_running in prop_oneof![Just(CancelRunning::Refused), Just(CancelRunning::Stops)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new(cancel_running);
            for step in &steps {
                pair.carry_out(step).await;
                pair.compare();
            }
        });
    }
}
