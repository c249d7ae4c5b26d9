# feature: ETags
# transports: rest
"""Preconditions of writes: identities, modules and twins; what a stale ETag may not change."""

from azure.iot.hub.models import Twin, TwinProperties

from support import case, equal, new_device, raises, random_key, refused, registry, rest, run

STALE = "AAAAAAAAAAA="


@case
def devices_are_replaced_by_etag():
    device = new_device("etag")
    manager = registry()
    first = manager.get_device(device.id).etag
    keys = random_key(), random_key()
    second = manager.update_device_with_sas(device.id, first, *keys, "enabled").etag
    assert second != first
    with raises(412, "PreconditionFailed") as refusal:
        manager.update_device_with_sas(device.id, first, *keys, "disabled")
    assert "ETag may be invalid" in refusal.message, refusal.message
    equal(manager.get_device(device.id).status, "enabled")
    equal(manager.get_device(device.id).etag, second)
    third = manager.update_device_with_sas(device.id, None, *keys, "disabled")  # the SDK sends "*"
    equal(third.status, "disabled")
    assert third.etag != second


@case
def devices_are_deleted_by_etag():
    device = new_device("etag")
    with raises(412, "PreconditionFailed"):
        registry().delete_device(device.id, STALE)
    registry().delete_device(device.id, registry().get_device(device.id).etag)
    with raises(404, "DeviceNotFound"):
        registry().delete_device(device.id, STALE)


@case
def modules_have_etags_of_their_own():
    device = new_device("etag")
    manager = registry()
    before = manager.get_device(device.id).etag
    first = manager.create_module_with_sas(device.id, "mod", "me", None, None).etag
    keys = random_key(), random_key()
    second = manager.update_module_with_sas(device.id, "mod", "you", first, *keys)
    equal(second.managed_by, "you")
    with raises(412, "PreconditionFailed"):
        manager.update_module_with_sas(device.id, "mod", "they", first, *keys)
    with raises(412, "PreconditionFailed"):
        manager.delete_module(device.id, "mod", first)
    equal(manager.get_module(device.id, "mod").managed_by, "you")
    manager.delete_module(device.id, "mod", second.etag)
    equal(manager.get_modules(device.id), [])
    equal(manager.get_device(device.id).etag, before)


@case
def twins_are_patched_by_etag():
    device = new_device("etag")
    manager = registry()
    identity = manager.get_device(device.id).etag
    first = manager.get_twin(device.id)
    assert first.etag and not first.etag.startswith('"')
    equal(first.device_etag, identity)
    second = manager.update_twin(device.id, Twin(tags={"n": 1}), first.etag)
    assert second.etag != first.etag
    with raises(412, "PreconditionFailed"):
        manager.update_twin(device.id, Twin(tags={"n": 2}), first.etag)
    with raises(412, "PreconditionFailed"):
        manager.replace_twin(device.id, Twin(tags={"n": 2}), first.etag)
    with raises(412, "PreconditionFailed"):
        manager.update_twin(device.id, Twin(tags={"n": 2}), identity)
    unchanged = manager.get_twin(device.id)
    equal((unchanged.tags, unchanged.etag, unchanged.version), ({"n": 1}, second.etag, second.version))
    manager.replace_twin(device.id, Twin(tags={"n": 3}), second.etag)
    manager.update_twin(device.id, Twin(properties=TwinProperties(desired={"d": 1})))
    equal(manager.get_twin(device.id).tags, {"n": 3})
    equal(manager.get_device(device.id).etag, identity)


@case
def module_twins_are_patched_by_etag():
    device = new_device("etag")
    manager = registry()
    manager.create_module_with_sas(device.id, "mod", "me", None, None)
    first = manager.get_module_twin(device.id, "mod").etag
    manager.update_module_twin(device.id, "mod", Twin(tags={"n": 1}), first)
    for write in (manager.update_module_twin, manager.replace_module_twin):
        with raises(412, "PreconditionFailed"):
            write(device.id, "mod", Twin(tags={"n": 2}), first)
    equal(manager.get_module_twin(device.id, "mod").tags, {"n": 1})


@case
def spellings_of_if_match():
    device = new_device("etag")
    path, twin = f"/devices/{device.id}", f"/twins/{device.id}"
    etag = registry().get_device(device.id).etag
    body = {"deviceId": device.id, "status": "enabled"}
    # Without If-Match a PUT only creates, even with the right ETag in the body.
    refused(rest("PUT", path, {**body, "etag": etag}), 409, "DeviceAlreadyExists")
    for spelling in (etag, "*", '"*"'):
        equal(rest("PUT", path, body, {"If-Match": spelling}).status, 200)
    refused(rest("PUT", path, body, {"If-Match": f'"{etag}"'}), 412, "PreconditionFailed")
    answer = rest("GET", twin)
    etag = answer.body["etag"]
    equal(answer.headers["ETag"], f'"{etag}"')
    for spelling in (f'"{etag}"', "*", '"*"'):
        equal(rest("PATCH", twin, {"tags": {}}, {"If-Match": spelling}).status, 200)
    equal(rest("PATCH", twin, {"tags": {}}).status, 200)
    refused(rest("PATCH", twin, {"tags": {}}, {"If-Match": f'"{STALE}"'}), 412, "PreconditionFailed")
    refused(rest("DELETE", path), 412, "PreconditionFailed")
    equal(rest("DELETE", path, None, {"If-Match": "*"}).status, 204)


run()
