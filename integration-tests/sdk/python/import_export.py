# feature: Import and export of identities
# transports: rest
"""The whole registry to a blob container, and identities from one."""

import json

from azure.iot.hub.models import JobProperties, Twin
from azure.storage.blob import ContainerClient

from support import admin, case, equal, eventually, new_device, new_module, raises, random_key, registry, run, scheduled_jobs, unique

FINAL = ("completed", "failed", "cancelled")


def new_container():
    """A container in the emulator's own storage: its address with a token, and a client."""
    uri = admin("PUT", f"containers/{unique('jobs')}")["containerUri"]
    return uri, ContainerClient.from_container_url(uri)


def run_job(**properties):
    """Creates a job and answers it when it is over."""
    made = scheduled_jobs().create_import_export_job(JobProperties(storage_authentication_type="keyBased", **properties))
    assert made.job_id and made.type == properties["type"], made

    def ended():
        job = scheduled_jobs().get_import_export_job(made.job_id)
        return job if job.status in FINAL else None

    job = eventually(ended, "the job to end")
    equal((job.status, job.progress, job.failure_reason), ("completed", 100, None))
    return job


def lines_of(container, name):
    return container.get_blob_client(name).download_blob().readall().decode().splitlines()


def export(**more):
    uri, container = new_container()
    run_job(type="export", output_blob_container_uri=uri, **{"exclude_keys_in_export": False, **more})
    lines = lines_of(container, more.get("output_blob_name", "devices.txt"))
    if more.get("exclude_keys_in_export"):
        assert not lines[0].startswith("{"), "the file begins with a notice"
        lines = lines[1:]
    return [json.loads(line) for line in lines]


def import_lines(*entries):
    """Imports the entries; answers the errors."""
    uri, container = new_container()
    container.upload_blob("devices.txt", "\n".join(json.dumps(entry) for entry in entries))
    run_job(type="import", input_blob_container_uri=uri, output_blob_container_uri=uri)
    blob = container.get_blob_client("importErrors.log")
    return [json.loads(line) for line in lines_of(container, "importErrors.log")] if blob.exists() else []


@case
def the_registry_is_exported():
    device = new_device("export", status="disabled")
    new_module(device)
    registry().update_twin(device.id, Twin(tags={"site": "here"}, properties={"desired": {"n": 1}}))
    mine = [entry for entry in export() if entry["id"] == device.id]
    (found,) = [entry for entry in mine if not entry.get("moduleId")]
    (module,) = [entry for entry in mine if entry.get("moduleId")]
    equal((found["status"], found["tags"], found["properties"]["desired"]["n"]), ("disabled", {"site": "here"}, 1))
    equal(found["authentication"]["symmetricKey"]["primaryKey"], device.key)
    equal(found["eTag"], registry().get_device(device.id).etag)
    equal(module["moduleId"], "mod")


@case
def keys_may_stay_at_home():
    device = new_device("export")
    (found,) = [entry for entry in export(exclude_keys_in_export=True, output_blob_name="no-keys.txt") if entry["id"] == device.id]
    equal((found["authentication"]["symmetricKey"] or {}).get("primaryKey"), None)


@case
def identities_are_imported():
    keys = {"primaryKey": random_key(), "secondaryKey": random_key()}
    new, existing, gone = unique("import"), new_device("import"), new_device("import")
    errors = import_lines(
        {"id": new, "importMode": "create", "status": "enabled", "authentication": {"type": "sas", "symmetricKey": keys},
         "tags": {"from": "import"}, "properties": {"desired": {"n": 2}}},
        {"id": existing.id, "importMode": "createOrUpdate", "status": "disabled", "statusReason": "imported"},
        {"id": gone.id, "importMode": "delete", "status": "enabled"},
    )  # fmt: skip
    equal(errors, [])
    equal(registry().get_device(new).authentication.symmetric_key.primary_key, keys["primaryKey"])
    twin = registry().get_twin(new)
    equal((twin.tags, twin.properties.desired["n"]), ({"from": "import"}, 2))
    updated = registry().get_device(existing.id)
    equal((updated.status, updated.status_reason), ("disabled", "imported"))
    with raises(404, "DeviceNotFound"):
        registry().get_device(gone.id)


@case
def lines_that_fail_are_logged():
    existing, new = new_device("import"), unique("import")
    errors = import_lines(
        {"id": existing.id, "importMode": "create", "status": "enabled"},
        {"id": unique("absent"), "importMode": "update", "status": "enabled"},
        {"id": new, "importMode": "create", "status": "enabled"},
    )
    equal([error["errorCode"] for error in errors if error["deviceId"] == existing.id], ["DeviceAlreadyExists"])
    equal(len(errors), 2)
    equal(registry().get_device(new).status, "enabled")


@case
def jobs_are_listed():
    uri, _ = new_container()
    job = run_job(type="export", output_blob_container_uri=uri, exclude_keys_in_export=True)
    assert job.start_time_utc <= job.end_time_utc, job
    assert job.job_id in [found.job_id for found in scheduled_jobs().get_import_export_jobs()]


@case
def what_is_refused():
    with raises(404, "JobNotFound"):
        scheduled_jobs().get_import_export_job(unique("absent"))
    uri, _ = new_container()
    for bad in ("https://localhost/absent-container?sig=none", uri.replace("sig=", "sig=x"), "nonsense"):
        with raises(400, "BlobContainerValidationError"):
            scheduled_jobs().create_import_export_job(JobProperties(type="export", output_blob_container_uri=bad, exclude_keys_in_export=True))


run()
