//! The engine over a fleet in memory and a clock that stands still.

mod keeping;
mod model;
mod pacing;
mod running;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use hub_core::ids::DeviceId;
use hub_core::job::{JobStatus, RecordState, TwinUpdate};
use hub_core::json::JsonText;
use hub_core::method::{self, MethodCall, MethodResponse};
use hub_core::time::Timestamp;
use serde_json::{Value, json};

use super::*;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A device's first letter says how it behaves: `a`nswers, is `o`ffline, stays
/// `s`ilent, `g`ives its answer when the gate opens, or `c`rashes the fleet.
struct FakeFleet {
    devices: Mutex<Vec<Target>>,
    gate: watch::Sender<bool>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    patches: Mutex<Vec<(Target, Value)>>,
}

impl FakeFleet {
    fn of(devices: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            devices: Mutex::new(devices.iter().map(|id| target(id)).collect()),
            gate: watch::Sender::new(false),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            patches: Mutex::default(),
        })
    }

    fn many(count: usize) -> Arc<Self> {
        let fleet = Self::of(&[]);
        *fleet.devices.lock().unwrap() = (0..count).map(|n| target(&format!("a{n:06}"))).collect();
        fleet
    }
}

impl Fleet for FakeFleet {
    async fn query(&self, condition: &str) -> Result<Vec<Target>, ServiceError> {
        match condition {
            "*" => Ok(self.devices.lock().unwrap().clone()),
            "never" => pending().await,
            _ => Err(ServiceError::invalid("SQL query parse failed")),
        }
    }

    async fn update_twin(&self, target: &Target, update: &TwinUpdate) -> Result<(), ServiceError> {
        self.patches
            .lock()
            .unwrap()
            .push((target.clone(), (*update.body).clone()));
        Ok(())
    }

    async fn invoke_method(
        &self,
        target: &Target,
        call: &MethodCall,
    ) -> Result<MethodResponse, ServiceError> {
        let now = self.in_flight.fetch_add(1, SeqCst) + 1;
        self.most_in_flight.fetch_max(now, SeqCst);
        match &target.device.as_str()[..1] {
            "o" => {
                self.in_flight.fetch_sub(1, SeqCst);
                return Err(method::not_online(call.connect_timeout));
            }
            "s" => pending().await,
            "g" => {
                self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            }
            "c" => panic!("as ordered by the test"),
            _ => {}
        }
        self.in_flight.fetch_sub(1, SeqCst);
        Ok(MethodResponse {
            status: 200,
            payload: JsonText::NULL,
        })
    }
}

fn target(id: &str) -> Target {
    DeviceId::parse(id).unwrap().into()
}

fn start() -> Timestamp {
    Timestamp::from_unix_seconds(1_767_322_000)
}

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

/// A method job over everything, due at once, with a window of a minute.
fn method_job(id: &str) -> JobRequest {
    job(id, &json!({}))
}

fn job(id: &str, members: &Value) -> JobRequest {
    let mut body = json!({"type":"scheduleDeviceMethod","queryCondition":"*",
        "maxExecutionTimeInSeconds":60,"cloudToDeviceMethod":{"methodName":"lockDoor"}});
    body.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    JobRequest::from_json(id, &body, start()).unwrap()
}

fn in_a_week(id: &str) -> JobRequest {
    job(id, &json!({"startTime": start().saturating_add(WEEK)}))
}

struct Bench {
    fleet: Arc<FakeFleet>,
    clock: Clock,
    engine: JobEngine<FakeFleet>,
}

impl Bench {
    fn new(fleet: Arc<FakeFleet>) -> Self {
        Self::with(fleet, EngineSettings::default())
    }

    fn with(fleet: Arc<FakeFleet>, settings: EngineSettings) -> Self {
        let clock = Clock::manual(start());
        let engine = JobEngine::new(fleet.clone(), clock.clone(), settings);
        Self { fleet, clock, engine }
    }

    async fn until(&self, job: &str, reached: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.engine.watch(&id(job)).unwrap();
        let wait = progress.wait_for(reached);
        *tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("in time")
            .unwrap()
    }

    async fn until_status(&self, job: &str, status: JobStatus) -> JobView {
        self.until(job, |p| p.status == status).await;
        self.engine.get(&id(job)).unwrap()
    }

    async fn until_over(&self, job: &str) -> JobView {
        self.until(job, |p| p.status.is_final()).await;
        self.engine.get(&id(job)).unwrap()
    }

    fn status(&self, job: &str) -> JobStatus {
        self.engine.get(&id(job)).unwrap().status
    }

    /// Device id to wire status and error code, for one job.
    fn records(&self, job: &str) -> BTreeMap<String, String> {
        let mut records = BTreeMap::new();
        self.engine.for_each_record(Some(&[id(job)]), None, |view| {
            let text = match &view.record.state {
                RecordState::Failed(error) => error.code.name(),
                state => state.name(),
            };
            records.insert(view.record.target.to_string(), text.to_owned());
            ControlFlow::Continue(())
        });
        records
    }
}

/// Waits until the job is forgotten by everybody.
async fn closed(mut progress: watch::Receiver<Progress>) {
    let wait = async { while progress.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("forgotten in time");
}
