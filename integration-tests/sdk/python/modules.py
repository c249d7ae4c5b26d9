# feature: Module identities
# transports: mqtt, mqtt-ws
"""Identities, twins and connections of modules."""

from azure.iot.device.exceptions import CredentialError
from azure.iot.hub.models import Twin, TwinProperties

from support import Module, case, client_of, connected, equal, eventually, new_device, new_module, raises, random_key, refused, registry, rest, run, unique


@case
def a_module_is_created_read_replaced_and_deleted():
    device = new_device("modules")
    manager = registry()
    made = manager.create_module_with_sas(device.id, "mod", "me", None, None)
    equal((made.device_id, made.module_id, made.managed_by), (device.id, "mod", "me"))
    equal((made.authentication.type, made.connection_state), ("sas", "Disconnected"))
    assert made.etag and made.generation_id
    assert made.authentication.symmetric_key.primary_key != made.authentication.symmetric_key.secondary_key
    equal(manager.get_module(device.id, "mod").as_dict(), made.as_dict())
    keys = random_key(), random_key()
    updated = manager.update_module_with_sas(device.id, "mod", "you", made.etag, *keys)
    equal((updated.managed_by, updated.generation_id), ("you", made.generation_id))
    equal((updated.authentication.symmetric_key.primary_key, updated.authentication.symmetric_key.secondary_key), keys)
    equal(manager.delete_module(device.id, "mod"), None)
    with raises(404, "ModuleNotFound"):
        manager.get_module(device.id, "mod")


@case
def modules_are_listed():
    device = new_device("modules")
    equal(registry().get_modules(device.id), [])
    for name in ("one", "two"):
        new_module(device, name)
    equal(sorted(m.module_id for m in registry().get_modules(device.id)), ["one", "two"])


@case
def modules_with_certificates():
    device = new_device("modules")
    made = registry().create_module_with_x509(device.id, "x", "me", "AB" * 20, None)
    equal((made.authentication.type, made.authentication.x509_thumbprint.primary_thumbprint), ("selfSigned", "AB" * 20))
    made = registry().create_module_with_certificate_authority(device.id, "ca", "me")
    equal(made.authentication.type, "certificateAuthority")


@case
def what_is_refused():
    device = new_device("modules")
    manager = registry()
    new_module(device)
    with raises(409, "ModuleAlreadyExistsOnDevice"):
        manager.create_module_with_sas(device.id, "mod", "me", None, None)
    with raises(404, "ModuleNotFound"):
        manager.update_module_with_sas(device.id, "absent", "me", None, random_key(), random_key())
    with raises(404, "ModuleNotFound"):
        manager.delete_module(device.id, "absent")
    with raises(404, "DeviceNotFound"):
        manager.create_module_with_sas(unique("absent"), "mod", "me", None, None)
    with raises(404, "DeviceNotFound"):
        manager.get_module_twin(device.id, "absent")
    for module_id in ("$mine", "a b", "a#b", "x" * 129):
        with raises(400, "ArgumentInvalid"):
            manager.create_module_with_sas(device.id, module_id, "me", None, None)
    with raises(400, "ArgumentInvalid"):
        manager.create_module_with_sas(device.id, "bad", "me", random_key(8), random_key())
    refused(rest("DELETE", f"/devices/{device.id}/modules/mod"), 412, "PreconditionFailed")


@case
def a_device_has_no_more_than_fifty_modules():
    device = new_device("modules")
    for n in range(50):
        new_module(device, f"m{n}")
    with raises(413, "TooManyModulesOnDevice"):
        new_module(device, "one-too-many")
    registry().delete_module(device.id, "m0")
    new_module(device, "in-its-place")


@case
def a_module_has_a_twin_of_its_own():
    device = new_device("modules")
    module = new_module(device)
    manager = registry()
    manager.update_twin(device.id, Twin(tags={"of": "device"}))
    twin = manager.update_module_twin(device.id, module.id, Twin(tags={"of": "module"}, properties=TwinProperties(desired={"n": 1})))
    equal((twin.device_id, twin.module_id, twin.tags), (device.id, module.id, {"of": "module"}))
    equal((twin.properties.desired["n"], twin.properties.desired["$version"]), (1, 2))
    equal(manager.get_twin(device.id).tags, {"of": "device"})
    replaced = manager.replace_module_twin(device.id, module.id, Twin(tags={"new": True}))
    equal(replaced.tags, {"new": True})


@case
def a_module_connects_beside_its_device():
    device = new_device("modules")
    module = new_module(device)
    manager = registry()
    with connected(device), connected(module) as client:
        eventually(lambda: manager.get_module(device.id, module.id).connection_state == "Connected", "the module to be connected")
        equal(manager.get_device(device.id).connection_state, "Connected")
        patches = []
        client.on_twin_desired_properties_patch_received = patches.append
        manager.update_module_twin(device.id, module.id, Twin(properties=TwinProperties(desired={"speed": 3})))
        eventually(lambda: patches == [{"speed": 3, "$version": 2}], "the desired properties")
        client.patch_twin_reported_properties({"speed": 3})
        equal(client.get_twin()["reported"], {"speed": 3, "$version": 2})
        equal(manager.get_module_twin(device.id, module.id).properties.reported["speed"], 3)
        assert "speed" not in manager.get_twin(device.id).properties.reported
    eventually(lambda: manager.get_module(device.id, module.id).connection_state == "Disconnected", "the module to be gone")


@case
def a_module_needs_its_own_key():
    device = new_device("modules")
    new_module(device)
    client = client_of(Module(device.id, "mod", device.key), connection_retry=False)
    with raises(CredentialError):
        client.connect()
    client.shutdown()


@case
def modules_go_with_their_device():
    device = new_device("modules")
    module = new_module(device)
    with connected(module) as client:
        registry().delete_device(device.id)
        eventually(lambda: not client.connected, "the module's connection to end")
    with raises(404):
        registry().get_module(device.id, module.id)


run()
