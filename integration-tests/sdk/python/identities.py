# feature: Device identities
# transports: rest
"""Creating, reading, replacing and deleting device identities, and what is refused."""

import base64

from support import IoTHubRegistryManager, case, equal, new_device, raises, random_key, refused, registry, rest, run, service_string, unique

NEVER = "0001-01-01T00:00:00"


@case
def a_new_device_gets_keys():
    device_id = unique("identity")
    made = registry().create_device_with_sas(device_id, None, None, "enabled")
    keys = made.authentication.symmetric_key
    equal(made.device_id, device_id)
    equal(made.authentication.type, "sas")
    equal([len(base64.b64decode(key)) for key in (keys.primary_key, keys.secondary_key)], [32, 32])
    assert keys.primary_key != keys.secondary_key
    equal((made.status, made.status_reason), ("enabled", None))
    equal(made.connection_state, "Disconnected")
    equal(made.cloud_to_device_message_count, 0)
    equal(made.capabilities.iot_edge, False)
    equal((made.device_scope, made.parent_scopes), (None, None))
    equal(made.authentication.x509_thumbprint.primary_thumbprint, None)
    assert made.generation_id and made.etag and not made.etag.startswith('"')
    for moment in (made.connection_state_updated_time, made.status_updated_time, made.last_activity_time):
        equal(moment.year, 1)
    equal(registry().get_device(device_id).as_dict(), made.as_dict())


@case
def keys_of_ones_own_are_kept():
    primary, secondary = random_key(16), random_key(64)
    made = registry().create_device_with_sas(unique("identity"), primary, secondary, "disabled", status_reason="spare part")
    keys = made.authentication.symmetric_key
    equal((keys.primary_key, keys.secondary_key), (primary, secondary))
    equal((made.status, made.status_reason), ("disabled", "spare part"))


@case
def devices_with_certificates():
    thumbprints = "AB" * 20, "cd" * 32
    made = registry().create_device_with_x509(unique("identity"), *thumbprints, "enabled")
    equal(made.authentication.type, "selfSigned")
    equal((made.authentication.x509_thumbprint.primary_thumbprint, made.authentication.x509_thumbprint.secondary_thumbprint), thumbprints)
    equal(made.authentication.symmetric_key.primary_key, None)
    made = registry().create_device_with_certificate_authority(unique("identity"), "enabled")
    equal(made.authentication.type, "certificateAuthority")
    updated = registry().update_device_with_x509(made.device_id, made.etag, *thumbprints, "enabled")
    equal(updated.authentication.type, "selfSigned")


@case
def a_device_that_exists_is_not_created_again():
    device = new_device()
    with raises(409, "DeviceAlreadyExists") as refusal:
        registry().create_device_with_sas(device.id, None, None, "enabled")
    assert f"A device with ID '{device.id}' is already registered." in refusal.message, refusal.message
    equal(registry().get_device(device.id).authentication.symmetric_key.primary_key, device.key)


@case
def a_device_that_does_not_exist():
    device_id = unique("absent")
    with raises(404, "DeviceNotFound") as refusal:
        registry().get_device(device_id)
    assert device_id in refusal.message, refusal.message
    with raises(404, "DeviceNotFound"):
        registry().update_device_with_sas(device_id, None, random_key(), random_key(), "enabled")
    with raises(404, "DeviceNotFound"):
        registry().delete_device(device_id)


@case
def an_update_replaces():
    device_id = unique("identity")
    primary, secondary = random_key(), random_key()
    made = registry().create_device_with_sas(device_id, primary, secondary, "enabled", status_reason="first")
    updated = registry().update_device_with_sas(device_id, None, secondary, primary, "disabled", status_reason="second")
    keys = updated.authentication.symmetric_key
    equal((keys.primary_key, keys.secondary_key), (secondary, primary))
    equal((updated.status, updated.status_reason), ("disabled", "second"))
    equal(updated.generation_id, made.generation_id)
    assert updated.status_updated_time.year > 2000
    again = registry().update_device_with_sas(device_id, None, None, None, "enabled")
    equal((again.status, again.status_reason), ("enabled", None))
    assert again.authentication.symmetric_key.primary_key not in (primary, secondary), "an update without keys mints new ones"


@case
def a_deleted_device_is_gone():
    device = new_device()
    generation = registry().get_device(device.id).generation_id
    equal(registry().delete_device(device.id), None)
    with raises(404, "DeviceNotFound"):
        registry().get_device(device.id)
    with raises(404, "DeviceNotFound"):
        registry().get_twin(device.id)
    again = registry().create_device_with_sas(device.id, None, None, "enabled")
    assert again.generation_id != generation


@case
def devices_are_listed():
    devices = {new_device("listed").id for _ in range(3)}
    listed = {device.device_id for device in registry().get_devices(1000)}
    assert devices <= listed, devices - listed
    equal(len(registry().get_devices(2)), 2)
    assert len(registry().get_devices()) >= 3


@case
def ids_may_hold_awkward_characters():
    for name in ("a-b.c_d%e*f?g!h(i)j,k:l=m@n$o'p", unique("Case").upper(), "x" * 100):
        device_id = unique(name)[-128:]
        registry().create_device_with_sas(device_id, None, None, "enabled")
        equal(registry().get_device(device_id).device_id, device_id)
        equal(registry().get_twin(device_id).device_id, device_id)
    with raises(404, "DeviceNotFound"):
        registry().get_device(device_id.swapcase())


@case
def ids_that_are_refused():
    for device_id in ("a b", "a/b", "a#b", "a+b", "ä", "x" * 129, "a\tb"):
        with raises(400, "ArgumentInvalid"):
            registry().create_device_with_sas(device_id, None, None, "enabled")


@case
def documents_that_are_refused():
    key = random_key()
    for primary, secondary in ((random_key(15), key), (key, random_key(65)), ("no base64!", key), (key, None)):
        with raises(400, "ArgumentInvalid"):
            registry().create_device_with_sas(unique("bad"), primary, secondary, "enabled")
    for thumbprint in ("AB" * 19, "xy" * 20, "AB " * 20):
        with raises(400, "ArgumentInvalid"):
            registry().create_device_with_x509(unique("bad"), thumbprint, None, "enabled")
    with raises(400, "ArgumentInvalid"):
        registry().create_device_with_sas(unique("bad"), key, key, "asleep")
    with raises(400, "ArgumentInvalid"):
        registry().create_device_with_sas(unique("bad"), key, key, "enabled", status_reason="x" * 129)
    device_id = unique("bad")
    refused(rest("PUT", f"/devices/{device_id}", {"deviceId": unique("other")}), 400, "ArgumentInvalid")
    equal(rest("GET", f"/devices/{device_id}").status, 404)


@case
def wrong_credentials_are_refused():
    for policy, key in (("iothubowner", random_key()), ("nobody", None), ("registryRead", random_key())):
        manager = IoTHubRegistryManager.from_connection_string(service_string(policy, key))
        with raises(401, "IotHubUnauthorizedAccess") as refusal:
            manager.get_devices(1)
        assert "Unauthorized" in refusal.message, refusal.message


@case
def policies_hold_only_their_permissions():
    device = new_device()
    reader = IoTHubRegistryManager.from_connection_string(service_string("registryRead"))
    equal(reader.get_device(device.id).device_id, device.id)
    with raises(401, "IotHubUnauthorizedAccess"):
        reader.create_device_with_sas(unique("refused"), None, None, "enabled")
    with raises(401, "IotHubUnauthorizedAccess"):
        reader.delete_device(device.id)
    service = IoTHubRegistryManager.from_connection_string(service_string("service"))
    equal(service.get_twin(device.id).device_id, device.id)
    with raises(401, "IotHubUnauthorizedAccess"):
        service.create_device_with_sas(unique("refused"), None, None, "enabled")
    with raises(401, "IotHubUnauthorizedAccess"):
        IoTHubRegistryManager.from_connection_string(service_string("device")).get_twin(device.id)


run()
