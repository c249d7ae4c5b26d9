# feature: X.509 certificates
# transports: mqtt, mqtt-ws
"""Devices and modules that present a certificate: thumbprints, and authorities."""

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.device.exceptions import CredentialError
from azure.iot.hub.models import CloudToDeviceMethod

from certificates import DAY, authority, issued, self_signed
from support import (
    ADMIN, HOST, answer_methods, case, client_of, connection_state, equal, eventually, http, new_device, raises, random_key, registry,
    run, telemetry_of, telemetry_position, transport_options, unique, Device,
)  # fmt: skip


def client_with(certificate, device_id, module_id=None, passphrase=None, **options):
    credentials = certificate.credentials(passphrase)
    options = {**transport_options(), **options}
    if module_id:
        return IoTHubModuleClient.create_from_x509_certificate(credentials, HOST, device_id, module_id, **options)
    return IoTHubDeviceClient.create_from_x509_certificate(credentials, HOST, device_id, **options)


def accepted(certificate, device_id, module_id=None, passphrase=None):
    client = client_with(certificate, device_id, module_id, passphrase)
    client.connect()
    equal(client.connected, True)
    client.shutdown()


def refused(certificate, device_id, module_id=None):
    client = client_with(certificate, device_id, module_id, connection_retry=False)
    with raises(CredentialError):
        client.connect()
    client.shutdown()


def by_thumbprint(primary, secondary=None):
    """A device that is known by thumbprints; answers its id."""
    return registry().create_device_with_x509(unique("x509"), primary, secondary, "enabled").device_id


def trust(certificate):
    answer = http("POST", f"{ADMIN}/_emulator/device-cas", certificate.pem.encode(), {})
    assert answer.status == 200, answer
    assert certificate.sha256 in [ca["sha256Thumbprint"] for ca in answer.body], answer


def distrust(certificate):
    equal(http("DELETE", f"{ADMIN}/_emulator/device-cas/{certificate.thumbprint()}", None, {}).status, 204)


@case
def a_device_is_known_by_its_thumbprint():
    telemetry_position()
    certificate = self_signed("any name")
    device_id = by_thumbprint(certificate.thumbprint())
    client = client_with(certificate, device_id)
    client.connect()
    equal(connection_state(device_id), "Connected")
    answer_methods(client, lambda name, payload: (200, payload))
    equal(registry().invoke_device_method(device_id, CloudToDeviceMethod(method_name="echo", payload="hello")).payload, "hello")
    client.patch_twin_reported_properties({"n": 1})
    equal(client.get_twin()["reported"]["n"], 1)
    client.send_message("signed")
    eventually(lambda: [m["body"] for m in telemetry_of(device_id)] == ["signed"], "the message")
    equal(registry().get_twin(device_id).authentication_type, "selfSigned")
    client.shutdown()


@case
def thumbprints_of_every_kind():
    first, second = self_signed("first"), self_signed("second", rsa_key=True)
    for primary, secondary in ((first.sha256, second.sha256), (first.thumbprint().lower(), second.sha256.lower())):
        device_id = by_thumbprint(primary, secondary)
        accepted(first, device_id)
        accepted(second, device_id)
    accepted(first, device_id, passphrase="secret")


@case
def other_certificates_are_refused():
    certificate = self_signed("mine")
    device_id = by_thumbprint(certificate.thumbprint())
    refused(self_signed("mine"), device_id)
    refused(certificate, unique("absent"))
    over = self_signed("over", starts=-2 * DAY, ends=-DAY)
    refused(over, by_thumbprint(over.thumbprint()))
    early = self_signed("early", starts=DAY, ends=2 * DAY)
    refused(early, by_thumbprint(early.thumbprint()))
    registry().update_device_with_x509(device_id, None, certificate.thumbprint(), None, "disabled")
    refused(certificate, device_id)


@case
def keys_and_certificates_do_not_mix():
    certificate = self_signed("mixed")
    refused(certificate, new_device("x509").id)
    client = client_of(Device(by_thumbprint(certificate.thumbprint()), random_key()), connection_retry=False)
    with raises(CredentialError):
        client.connect()
    client.shutdown()


@case
def certificates_are_rolled():
    old, new = self_signed("old"), self_signed("new")
    device_id = by_thumbprint(old.thumbprint())
    registry().update_device_with_x509(device_id, None, old.thumbprint(), new.sha256, "enabled")
    accepted(old, device_id)
    accepted(new, device_id)
    registry().update_device_with_x509(device_id, None, new.thumbprint(), None, "enabled")
    refused(old, device_id)
    accepted(new, device_id)


@case
def an_authority_vouches_for_devices():
    root = authority(unique("root"))
    trust(root)
    device_id = registry().create_device_with_certificate_authority(unique("x509"), "enabled").device_id
    leaf = issued(device_id, root)
    accepted(leaf, device_id)
    accepted(issued(device_id, root), device_id)
    refused(issued(unique("other"), root), device_id)
    refused(self_signed(device_id), device_id)
    refused(issued(device_id, authority(unique("stranger"))), device_id)
    refused(issued(device_id, root, starts=-2 * DAY, ends=-DAY), device_id)
    refused(leaf, by_thumbprint("AB" * 20))
    distrust(root)
    refused(leaf, device_id)


@case
def an_authority_below_a_trusted_one():
    root = authority(unique("root"))
    middle = authority(unique("middle"), root)
    trust(root)
    device_id = registry().create_device_with_certificate_authority(unique("x509"), "enabled").device_id
    leaf = issued(device_id, middle)
    accepted(leaf, device_id)
    leaf.chain.clear()  # without its issuer nobody can tell who signed it
    refused(leaf, device_id)
    distrust(root)


@case
def modules_present_certificates_too():
    device = new_device("x509")
    certificate = self_signed("module")
    registry().create_module_with_x509(device.id, "mod", "me", certificate.thumbprint(), None)
    accepted(certificate, device.id, "mod")
    refused(self_signed("module"), device.id, "mod")
    root = authority(unique("root"))
    trust(root)
    registry().create_module_with_certificate_authority(device.id, "ca", "me")
    accepted(issued(f"{device.id}/ca", root), device.id, "ca")
    refused(issued(device.id, root), device.id, "ca")
    distrust(root)


@case
def authorities_that_are_refused():
    for text in (b"", b"no certificate", self_signed("no authority").pem.encode()):
        equal(http("POST", f"{ADMIN}/_emulator/device-cas", text, {}).status, 400)
    equal(http("DELETE", f"{ADMIN}/_emulator/device-cas/{'AB' * 20}", None, {}).status, 404)


run()
