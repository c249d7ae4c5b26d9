# feature: Jobs
# transports: mqtt, mqtt-ws
"""Jobs that call methods and change twins: states, statistics, records, refusals."""

import datetime
import time

from azure.iot.hub.models import CloudToDeviceMethod, JobRequest, QuerySpecification, Twin, TwinProperties
from msrest.exceptions import DeserializationError

from support import answer_methods, case, connected, equal, eventually, new_device, new_module, raises, refused, registry, rest, run, scheduled_jobs, unique

FINAL = ("completed", "failed", "cancelled")


def in_seconds(seconds):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


def one_of(devices):
    return "deviceId IN [" + ", ".join(f"'{device.id}'" for device in devices) + "]"


def create(condition, method=None, twin=None, start=None, window=60):
    """Schedules a job and answers its id."""
    kind = "scheduleDeviceMethod" if method else "scheduleUpdateTwin"
    job_id = unique("job")
    request = JobRequest(
        job_id=job_id, type=kind, cloud_to_device_method=method, update_twin=twin, query_condition=condition,
        start_time=start or in_seconds(0), max_execution_time_in_seconds=window,
    )  # fmt: skip
    made = scheduled_jobs().create_scheduled_job(job_id, request)
    equal((made.job_id, made.type, made.status), (job_id, kind, "queued"))
    return job_id


def finished(job_id):
    return eventually(
        lambda: (lambda job: job if job.status in FINAL else None)(scheduled_jobs().get_scheduled_job(job_id)), f"job {job_id} to end"
    )


def statistics(job):
    found = job.device_job_statistics
    return {
        "device": found.device_count, "failed": found.failed_count, "succeeded": found.succeeded_count,
        "running": found.running_count, "pending": found.pending_count,
    }  # fmt: skip


def records(job_id):
    result = registry().query_iot_hub(QuerySpecification(query=f"SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '{job_id}'"))
    equal(result.type, "DeviceJob")
    return {row.device_id: {"status": row.status, "moduleId": row.module_id, **row.additional_properties} for row in result.items}


def lock_door(**more):
    return CloudToDeviceMethod(method_name="lockDoor", payload={"lockTime": "10m"}, **more)


@case
def a_job_calls_a_method():
    devices = [new_device("jobs"), new_device("jobs")]
    with connected(devices[0]) as first, connected(devices[1]) as second:
        calls = [answer_methods(first, lambda name, payload: (200, {"Response": name})), answer_methods(second, lambda *_: (500, None))]
        job_id = create(one_of(devices), method=lock_door())
        job = finished(job_id)
        equal((job.status, statistics(job)), ("completed", {"device": 2, "failed": 0, "succeeded": 2, "running": 0, "pending": 0}))
        equal(calls, [[("lockDoor", {"lockTime": "10m"})]] * 2)
    equal((job.type, job.query_condition, job.max_execution_time_in_seconds), ("scheduleDeviceMethod", one_of(devices), 60))
    equal(job.cloud_to_device_method.method_name, "lockDoor")
    assert job.created_time <= job.end_time and job.start_time <= job.end_time, job
    found = records(job_id)
    equal({d: (r["status"], r["jobType"], r["jobId"]) for d, r in found.items()},
          {d.id: ("completed", "scheduleDeviceMethod", job_id) for d in devices})  # fmt: skip
    equal(found[devices[0].id]["outcome"], {"deviceMethodResponse": {"status": 200, "payload": {"Response": "lockDoor"}}})
    equal(found[devices[1].id]["outcome"], {"deviceMethodResponse": {"status": 500, "payload": None}})


@case
def a_job_changes_twins():
    online, offline = new_device("jobs"), new_device("jobs")
    with connected(online) as client:
        patches = []
        client.on_twin_desired_properties_patch_received = patches.append
        twin = Twin(etag="*", tags={"job": "done"}, properties=TwinProperties(desired={"building": "43", "floor": 3}))
        job_id = create(one_of([online, offline]), twin=twin)
        job = finished(job_id)
        equal((job.status, statistics(job)["succeeded"]), ("completed", 2))
        equal((job.update_twin.etag, job.update_twin.tags), ("*", {"job": "done"}))
        eventually(lambda: patches == [{"building": "43", "floor": 3, "$version": 2}], "the desired properties")
    changed = registry().get_twin(offline.id)
    equal((changed.tags, changed.properties.desired["floor"]), ({"job": "done"}, 3))
    equal({r["status"] for r in records(job_id).values()}, {"completed"})


@case
def devices_that_fail():
    online, offline = new_device("jobs"), new_device("jobs")
    with connected(online) as client:
        answer_methods(client, lambda *_: (200, "ok"))
        job_id = create(one_of([online, offline]), method=lock_door())
        job = finished(job_id)
        equal((job.status, statistics(job)["succeeded"], statistics(job)["failed"]), ("completed", 1, 1))
        failed = records(job_id)[offline.id]
        equal((failed["status"], failed["error"]["code"]), ("failed", "DeviceNotOnline"))
        assert failed["error"]["description"], failed
        equal(records(job_id)[online.id]["status"], "completed")
    job = finished(create(one_of([offline]), method=lock_door()))
    equal((job.status, statistics(job)["failed"]), ("failed", 1))
    assert job.failure_reason, "a failed job says why"


@case
def a_job_waits_for_devices_to_connect():
    device = new_device("jobs")
    job_id = create(one_of([device]), method=lock_door(connect_timeout_in_seconds=20, response_timeout_in_seconds=10))
    eventually(lambda: scheduled_jobs().get_scheduled_job(job_id).status == "running", "the job to run")
    equal(statistics(scheduled_jobs().get_scheduled_job(job_id))["device"], 1)
    with connected(device) as client:
        answer_methods(client, lambda *_: (200, "late"))
        equal((finished(job_id).status, records(job_id)[device.id]["status"]), ("completed", "completed"))


@case
def the_window_ends_a_job():
    device = new_device("jobs")
    started = time.monotonic()
    job_id = create(one_of([device]), method=lock_door(connect_timeout_in_seconds=30, response_timeout_in_seconds=30), window=1)
    job = finished(job_id)
    assert time.monotonic() - started < 8, "the window was a second"
    equal(statistics(job)["failed"], 1)
    equal(records(job_id)[device.id]["error"]["code"], "JobTimedOut")


@case
def a_job_of_later_waits_and_can_be_cancelled():
    device = new_device("jobs")
    job_id = create(one_of([device]), twin=Twin(etag="*", tags={"never": True}), start=in_seconds(3600))
    eventually(lambda: scheduled_jobs().get_scheduled_job(job_id).status == "scheduled", "the job to be scheduled")
    equal(scheduled_jobs().get_scheduled_job(job_id).end_time, None)
    equal(records(job_id), {})
    equal(scheduled_jobs().cancel_scheduled_job(job_id).status, "cancelled")
    equal(scheduled_jobs().get_scheduled_job(job_id).status, "cancelled")
    with raises(412, "JobRunPreconditionFailed"):
        scheduled_jobs().cancel_scheduled_job(job_id)
    equal(registry().get_twin(device.id).tags, {})


@case
def a_job_starts_when_it_is_due():
    device = new_device("jobs")
    due = in_seconds(2)
    job_id = create(one_of([device]), twin=Twin(etag="*", tags={"on": "time"}), start=due)
    equal(registry().get_twin(device.id).tags, {})
    job = finished(job_id)
    assert due <= job.end_time, job
    equal(registry().get_twin(device.id).tags, {"on": "time"})


@case
def jobs_over_modules():
    device = new_device("jobs")
    module = new_module(device)
    with connected(module) as client:
        answer_methods(client, lambda *_: (200, "module"))
        job_id = create(f"FROM devices.modules WHERE deviceId = '{device.id}'", method=lock_door())
        equal(statistics(finished(job_id))["succeeded"], 1)
    equal(records(job_id)[device.id]["moduleId"], module.id)


@case
def conditions_that_choose_nobody_or_are_wrong():
    job = finished(create(f"deviceId IN ['{unique('absent')}']", method=lock_door()))
    equal((job.status, statistics(job)["device"]), ("completed", 0))
    job = finished(create("SELECT * FROM devices", method=lock_door()))
    equal(job.status, "failed")
    assert "SQL query parse failed" in job.failure_reason, job.failure_reason


@case
def an_unknown_job():
    job = scheduled_jobs().get_scheduled_job(unique("absent"))
    equal((job.type, job.status), ("unknown", "unknown"))
    with raises(404, "JobNotFound"):
        scheduled_jobs().cancel_scheduled_job(unique("absent"))


@case
def requests_that_are_refused():
    device = new_device("jobs")
    job_id = create(one_of([device]), twin=Twin(etag="*", tags={}), start=in_seconds(3600))
    good = {"jobId": job_id, "type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "tags": {}}, "queryCondition": "*",
            "startTime": "2099-01-01T00:00:00Z", "maxExecutionTimeInSeconds": 60}  # fmt: skip
    refused(rest("PUT", f"/jobs/v2/{job_id}", good), 409, "JobAlreadyExists")
    with raises(409, "JobAlreadyExists"):
        scheduled_jobs().create_scheduled_job(
            job_id,
            JobRequest(
                job_id=job_id, type="scheduleUpdateTwin", update_twin=Twin(etag="*", tags={}), query_condition="*",
                start_time=in_seconds(3600), max_execution_time_in_seconds=60,
            ),
        )  # fmt: skip
    scheduled_jobs().cancel_scheduled_job(job_id)
    for change in (
        {"type": "scheduleTwinUpdate"}, {"updateTwin": {"tags": {}}}, {"updateTwin": {"etag": "AAAAAAAAAAE="}}, {"updateTwin": None},
        {"startTime": None}, {"maxExecutionTimeInSeconds": 0}, {"maxExecutionTimeInSeconds": None}, {"type": "scheduleDeviceMethod"},
        {"queryCondition": None}, {"jobId": "another"}, {"startTime": "tomorrow"},
    ):  # fmt: skip
        refused_id = unique("refused")
        answer = rest("PUT", f"/jobs/v2/{refused_id}", {**good, "jobId": refused_id, **change})
        assert answer.status == 400, (change, answer)
        equal(scheduled_jobs().get_scheduled_job(refused_id).status, "unknown")
    refusal = refused(rest("PUT", f"/jobs/v2/{unique('x')}", {**good, "jobId": None, "updateTwin": {"tags": {}}}), 400, "ArgumentInvalid")
    assert "only accepts '*' as the Etag" in refusal.message, refusal.message
    for bad_id in ("with_underscore", "x" * 65):
        equal(rest("PUT", f"/jobs/v2/{bad_id}", {**good, "jobId": bad_id}).status, 400)


@case
def jobs_are_listed_in_pages():
    device = new_device("jobs")
    made = [create(one_of([device]), twin=Twin(etag="*", tags={}), start=in_seconds(3600)) for _ in range(5)]
    eventually(lambda: scheduled_jobs().get_scheduled_job(made[-1]).status == "scheduled", "the last job to be scheduled")
    path, listed, headers = "/jobs/v2/query?jobStatus=scheduled", [], {"x-ms-max-item-count": "2"}
    while True:
        answer = rest("GET", path, headers=headers)
        equal((answer.status, answer.headers["x-ms-item-type"]), (200, "JobResponse"))
        listed += [job["jobId"] for job in answer.body]
        if not (token := answer.headers.get("x-ms-continuation")):
            break
        equal(len(answer.body), 2)
        headers["x-ms-continuation"] = token
    equal([job_id for job_id in listed if job_id in made], made[::-1])
    # The size and the token may be part of the address as well.
    first = rest("GET", f"{path}&pageSize=2")
    equal(len(first.body), 2)
    second = rest("GET", f"{path}&pageSize=2&continuationToken={first.headers['x-ms-continuation']}")
    assert not {job["jobId"] for job in first.body} & {job["jobId"] for job in second.body}
    for job_id in made:
        scheduled_jobs().cancel_scheduled_job(job_id)


@case
def jobs_are_listed():
    device = new_device("jobs")
    job_id = create(one_of([device]), twin=Twin(etag="*", tags={"x": 1}))
    finished(job_id)
    answer = rest("GET", "/jobs/v2/query?jobType=scheduleUpdateTwin&jobStatus=completed")
    equal((answer.status, answer.headers["x-ms-item-type"]), (200, "JobResponse"))
    assert job_id in {job["jobId"] for job in answer.body}
    equal({job["type"] for job in answer.body}, {"scheduleUpdateTwin"})
    # The names of the .NET enumerations are as good; no scheduled job is an export.
    same = rest("GET", "/jobs/v2/query?jobType=ScheduleUpdateTwin&jobStatus=Completed")
    assert job_id in {job["jobId"] for job in same.body}
    equal(rest("GET", "/jobs/v2/query?jobType=ExportDevices").body, [])
    refused(rest("GET", "/jobs/v2/query?jobStatus=done"), 400, "ArgumentInvalid")
    # The service answers an array; the Python SDK expects an object and says so.
    with raises(DeserializationError):
        scheduled_jobs().query_scheduled_jobs("scheduleUpdateTwin", "completed")


run()
