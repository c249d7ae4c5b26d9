# feature: Bulk operations
# transports: rest
"""Up to a hundred identities in one request: every import mode, and entries that fail."""

from azure.iot.hub.models import AuthenticationMechanism, ExportImportDevice, SymmetricKey

from support import case, equal, new_device, raises, random_key, refused, registry, rest, run, unique


def entry(device_id, mode, **more):
    more.setdefault("status", "enabled")
    return ExportImportDevice(id=device_id, import_mode=mode, **more)


def bulk(*entries):
    return registry().bulk_create_or_update_devices(list(entries))


def failures(result):
    equal(result.is_successful, False)
    return [(e.device_id, e.error_code) for e in result.errors]


@case
def devices_are_created():
    ids = [unique("bulk") for _ in range(100)]
    keys = SymmetricKey(primary_key=random_key(), secondary_key=random_key())
    authentication = AuthenticationMechanism(type="sas", symmetric_key=keys)
    result = bulk(*(entry(i, "create", authentication=authentication, status="disabled", status_reason="bulk") for i in ids))
    equal((result.is_successful, result.errors, result.warnings), (True, [], []))
    for device_id in (ids[0], ids[-1]):
        made = registry().get_device(device_id)
        equal((made.status, made.status_reason), ("disabled", "bulk"))
        equal(made.authentication.symmetric_key.primary_key, keys.primary_key)
    # The lot again: nothing is created twice, and every failure is told.
    equal(sorted(failures(bulk(*(entry(i, "create") for i in ids)))), sorted((i, "DeviceAlreadyExists") for i in ids))
    result = bulk(*(entry(i, "delete") for i in ids))
    equal(result.is_successful, True)
    with raises(404, "DeviceNotFound"):
        registry().get_device(ids[50])


@case
def keys_are_generated_and_twins_filled():
    device_id = unique("bulk")
    equal(bulk(entry(device_id, "create", tags={"site": "here"}, properties={"desired": {"n": 1}})).is_successful, True)
    assert len(registry().get_device(device_id).authentication.symmetric_key.primary_key) == 44
    twin = registry().get_twin(device_id)
    equal(twin.tags, {"site": "here"})
    equal(twin.properties.desired["n"], 1)


@case
def devices_are_updated_and_deleted():
    device = new_device("bulk")
    manager = registry()
    stale = manager.get_device(device.id).etag
    equal(bulk(entry(device.id, "update", status="disabled")).is_successful, True)
    equal(manager.get_device(device.id).status, "disabled")
    equal(failures(bulk(entry(device.id, "updateIfMatchETag", e_tag=stale))), [(device.id, "PreconditionFailed")])
    etag = manager.get_device(device.id).etag
    equal(bulk(entry(device.id, "updateIfMatchETag", e_tag=etag)).is_successful, True)
    equal(manager.get_device(device.id).status, "enabled")
    equal(failures(bulk(entry(device.id, "deleteIfMatchETag", e_tag=etag))), [(device.id, "PreconditionFailed")])
    etag = manager.get_device(device.id).etag
    equal(bulk(entry(device.id, "deleteIfMatchETag", e_tag=etag)).is_successful, True)
    equal(failures(bulk(entry(device.id, "update"))), [(device.id, "DeviceNotFound")])
    equal(failures(bulk(entry(device.id, "delete"))), [(device.id, "DeviceNotFound")])


@case
def twins_are_merged():
    device = new_device("bulk")
    manager = registry()
    equal(bulk(entry(device.id, "updateTwin", tags={"a": 1, "b": 2})).is_successful, True)
    stale = manager.get_twin(device.id).etag
    equal(bulk(entry(device.id, "updateTwin", tags={"a": None}, properties={"desired": {"x": {"y": 1}}})).is_successful, True)
    twin = manager.get_twin(device.id)
    equal(twin.tags, {"b": 2})
    equal(twin.properties.desired["x"], {"y": 1})
    equal(failures(bulk(entry(device.id, "updateTwinIfMatchETag", twin_etag=stale, tags={"b": 3}))), [(device.id, "PreconditionFailed")])
    equal(bulk(entry(device.id, "updateTwinIfMatchETag", twin_etag=twin.etag, tags={"b": 3})).is_successful, True)
    equal(manager.get_twin(device.id).tags, {"b": 3})


@case
def modules_are_created():
    device = new_device("bulk")
    equal(bulk(entry(device.id, "create", module_id="mod")).is_successful, True)
    equal([m.module_id for m in registry().get_modules(device.id)], ["mod"])
    result = bulk(entry(device.id, "create", module_id="mod"))
    equal([(e.device_id, e.module_id, e.error_code) for e in result.errors], [(device.id, "mod", "ModuleAlreadyExistsOnDevice")])


@case
def entries_fail_one_by_one():
    good, taken, absent = unique("bulk"), new_device("bulk").id, unique("bulk")
    result = bulk(entry(good, "create"), entry(taken, "create"), entry(absent, "delete"), entry("not valid", "create"))
    equal(result.is_successful, False)
    told = {e.device_id: (e.error_code, e.operation) for e in result.errors}
    equal(told[taken], ("DeviceAlreadyExists", "create"))
    equal(told[absent], ("DeviceNotFound", "delete"))
    equal(len(told), 3)
    equal(registry().get_device(good).status, "enabled")


@case
def requests_that_are_refused():
    twice = unique("bulk")
    refusal = refused(
        rest("POST", "/devices", [{"id": twice, "importMode": "create", "status": "enabled"}] * 2), 400, "DeviceDefinedMultipleTimes"
    )
    assert twice in refusal.message, refusal.message
    with raises(413, "TooManyDevices"):
        bulk(*(entry(unique("bulk"), "create") for _ in range(101)))
    refused(rest("POST", "/devices", {"id": twice}), 400, "ArgumentInvalid")
    equal(rest("GET", f"/devices/{twice}").status, 404)


run()
