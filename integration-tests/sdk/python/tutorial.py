# feature: The tutorial: scheduled jobs
# transports: mqtt, mqtt-ws
"""The tutorial's two programs in short, with delays of a second: a simulated device that
locks its door, and a back end that calls it and changes its desired properties, first from
timers of its own and then by scheduled jobs."""

import datetime
import threading
import time

from azure.iot.device import MethodResponse
from azure.iot.hub.models import CloudToDeviceMethod, JobRequest, QuerySpecification, Twin, TwinProperties

from support import case, client_of, equal, eventually, new_device, registry, run, scheduled_jobs, unique

DELAY = 1.0
DEVICE = new_device("tutorial")
ANSWER = {"Response": "lockDoor called successfully"}


class SimulatedDevice:
    """The tutorial's first program."""

    def __init__(self):
        self.calls, self.patches = [], []
        self.client = client_of(DEVICE)
        self.client.connect()
        self.client.on_method_request_received = self.on_method
        self.client.on_twin_desired_properties_patch_received = self.patches.append

    def on_method(self, request):
        self.calls.append((request.name, request.payload))
        self.client.send_method_response(MethodResponse.create_from_method_request(request, 200, ANSWER))


device = SimulatedDevice()


@case
def the_back_end_finds_its_device():
    assert DEVICE.id in [found.device_id for found in registry().get_devices(1000)]


@case
def two_timers_call_the_device_and_change_its_twin():
    answers = []

    def call():
        time.sleep(DELAY)
        request = CloudToDeviceMethod(method_name="lockDoor", payload={"lockTime": "10m"}, response_timeout_in_seconds=60)
        answers.append(registry().invoke_device_method(DEVICE.id, request))

    def update():
        time.sleep(DELAY / 2)
        desired = TwinProperties(desired={"building": 43, "floor": 3})
        answers.append(registry().update_twin(DEVICE.id, Twin(properties=desired)))

    threads = [threading.Thread(target=call), threading.Thread(target=update)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    twin, method = answers  # in the order of the delays
    equal((method.status, method.payload), (200, ANSWER))
    equal((twin.properties.desired["building"], twin.properties.desired["floor"]), (43, 3))
    eventually(lambda: len(device.patches) == 1, "the desired properties")
    equal(device.patches, [{"building": 43, "floor": 3, "$version": 2}])
    equal(device.calls, [("lockDoor", {"lockTime": "10m"})])


def run_job(kind, **operation):
    """Schedules a job a little later and polls until it is over."""
    start = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=DELAY)
    job = JobRequest(
        job_id=unique("tutorial"), type=kind, query_condition=f"deviceId IN ['{DEVICE.id}']", start_time=start,
        max_execution_time_in_seconds=300, **operation,
    )  # fmt: skip
    equal(scheduled_jobs().create_scheduled_job(job.job_id, job).status, "queued")

    def ended():
        state = scheduled_jobs().get_scheduled_job(job.job_id)
        return state if state.status in ("completed", "failed", "cancelled") else None

    state = eventually(ended, "the job to end")
    assert datetime.datetime.now(datetime.timezone.utc) >= start, "the job ran early"
    equal((state.status, state.device_job_statistics.succeeded_count), ("completed", 1))
    query = QuerySpecification(query=f"SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '{job.job_id}'")
    (record,) = registry().query_iot_hub(query).items
    equal((record.device_id, record.status), (DEVICE.id, "completed"))
    return record.additional_properties["outcome"]["deviceMethodResponse"]


@case
def a_job_locks_the_door():
    method = CloudToDeviceMethod(method_name="lockDoor", payload={"lockTime": "5m"}, response_timeout_in_seconds=30)
    equal(run_job("scheduleDeviceMethod", cloud_to_device_method=method), {"status": 200, "payload": ANSWER})
    equal(device.calls[1:], [("lockDoor", {"lockTime": "5m"})])


@case
def a_job_changes_the_desired_properties():
    twin = Twin(etag="*", properties=TwinProperties(desired={"building": "44", "floor": 4}))
    equal(run_job("scheduleUpdateTwin", update_twin=twin), None)
    eventually(lambda: len(device.patches) == 2, "the desired properties")
    equal(device.patches[1], {"building": "44", "floor": 4, "$version": 3})


run()
