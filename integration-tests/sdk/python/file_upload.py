# feature: File upload
# transports: http
"""Devices upload files: a place from the hub, the storage SDK for the file, a notification.

The service SDK has no receiver for notifications, so the emulator's own endpoint shows them."""

import os

from azure.core.exceptions import HttpResponseError
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import ClientError, ServiceError
from azure.storage.blob import BlobClient

from certificates import self_signed
from support import HOST, admin, case, client_of, equal, eventually, new_device, raises, registry, run, unique


def url_of(info):
    return f"https://{info['hostName']}/{info['containerName']}/{info['blobName']}{info['sasToken']}"


def blob_of(info, **options):
    return BlobClient.from_blob_url(url_of(info), **options)


def notifications(device_id):
    return [n for n in admin("GET", "file-notifications")["notifications"] if n["deviceId"] == device_id]


def finish(client, info, is_success=True):
    client.notify_blob_upload_status(info["correlationId"], is_success, 200 if is_success else 500, "done")


def refused(call, text):
    """Expects a call of the device SDK to fail; it tells the status by a word only."""
    with raises(ClientError) as refusal:
        call()
    cause = refusal.error.__cause__
    equal(type(cause), ServiceError)
    assert text in str(cause), str(cause)


@case
def a_file_is_uploaded():
    device = new_device("upload")
    client = client_of(device)
    info = client.get_storage_info_for_blob("readings.txt")
    equal(set(info), {"correlationId", "hostName", "containerName", "blobName", "sasToken"})
    equal(info["blobName"], f"{device.id}/readings.txt")
    assert info["sasToken"].startswith("?"), info
    blob_of(info).upload_blob("temperature 21.5 °C\n")
    equal(notifications(device.id), [])
    finish(client, info)
    (told,) = eventually(lambda: notifications(device.id), "the notification")
    equal((told["blobName"], told["blobSizeInBytes"]), (info["blobName"], 21))
    equal(told["blobUri"], url_of(info).partition("?")[0])
    assert told["lastUpdatedTime"] and told["enqueuedTimeUtc"].endswith("Z"), told
    equal(blob_of(info).download_blob().readall().decode(), "temperature 21.5 °C\n")
    client.shutdown()


@case
def a_large_file_goes_in_blocks():
    device = new_device("upload")
    client = client_of(device)
    info = client.get_storage_info_for_blob("large.bin")
    content = os.urandom(1_000_000)
    blob_of(info, max_single_put_size=64 * 1024, max_block_size=100_000).upload_blob(content, max_concurrency=2)
    finish(client, info)
    (told,) = eventually(lambda: notifications(device.id), "the notification")
    equal(told["blobSizeInBytes"], len(content))
    assert blob_of(info).download_blob().readall() == content, "the file is another"
    client.shutdown()


@case
def names_may_be_awkward():
    device = new_device("upload")
    client = client_of(device)
    for name in ("a/b/c.txt", "with space.txt", "ü€.txt", "50%25.txt"):
        info = client.get_storage_info_for_blob(name)
        equal(info["blobName"], f"{device.id}/{name}")
        address = url_of({**info, "blobName": info["blobName"].replace("%", "%25")})
        BlobClient.from_blob_url(address).upload_blob(name)
        finish(client, info)
        equal(notifications(device.id)[-1]["blobName"], info["blobName"])
    client.shutdown()


@case
def a_failed_upload_is_not_announced():
    device = new_device("upload")
    client = client_of(device)
    info = client.get_storage_info_for_blob("failed.txt")
    finish(client, info, is_success=False)
    equal(notifications(device.id), [])
    refused(lambda: finish(client, info), "ArgumentError")  # it is over
    client.shutdown()


@case
def ten_uploads_may_be_under_way():
    device = new_device("upload")
    client = client_of(device)
    infos = [client.get_storage_info_for_blob(f"{n}.txt") for n in range(10)]
    refused(lambda: client.get_storage_info_for_blob("11.txt"), "TooManyDevicesError")  # the SDK's word for 403
    finish(client, infos[0], is_success=False)
    client.get_storage_info_for_blob("11.txt")
    client.shutdown()


@case
def notifications_that_are_refused():
    device = new_device("upload")
    client = client_of(device)
    info = client.get_storage_info_for_blob("never.txt")
    refused(lambda: finish(client, info), "ArgumentError")  # the file is not there
    refused(lambda: finish(client, {"correlationId": "nonsense"}), "ArgumentError")
    refused(lambda: client.get_storage_info_for_blob(""), "ArgumentError")
    stranger = client_of(new_device("upload"))
    refused(lambda: finish(stranger, info), "ArgumentError")
    equal(notifications(device.id), [])
    stranger.shutdown()
    client.shutdown()


@case
def a_token_opens_one_file():
    device = new_device("upload")
    client = client_of(device)
    info = client.get_storage_info_for_blob("mine.txt")
    blob_of(info).upload_blob("mine")
    for other in ({"blobName": f"{device.id}/other.txt"}, {"sasToken": info["sasToken"].replace("sig=", "sig=x")}, {"sasToken": ""}):
        with raises(HttpResponseError) as refusal:
            blob_of({**info, **other}).upload_blob("theirs", overwrite=True)
        assert refusal.error.status_code in (401, 403, 404), refusal.error
    equal(blob_of(info).download_blob().readall(), b"mine")
    client.shutdown()


@case
def a_certificate_will_do():
    certificate = self_signed("uploader")
    device_id = registry().create_device_with_x509(unique("upload"), certificate.thumbprint(), None, "enabled").device_id
    client = IoTHubDeviceClient.create_from_x509_certificate(certificate.credentials(), HOST, device_id)
    info = client.get_storage_info_for_blob("signed.txt")
    blob_of(info).upload_blob("signed")
    finish(client, info)
    eventually(lambda: notifications(device_id), "the notification")
    client.shutdown()
    stranger = IoTHubDeviceClient.create_from_x509_certificate(self_signed("other").credentials(), HOST, device_id)
    refused(lambda: stranger.get_storage_info_for_blob("x.txt"), "UnauthorizedError")
    stranger.shutdown()


@case
def strangers_are_refused():
    device = new_device("upload")
    device.key = "AAAAAAAAAAAAAAAAAAAAAA=="
    client = client_of(device)
    refused(lambda: client.get_storage_info_for_blob("x.txt"), "UnauthorizedError")
    client.shutdown()


run()
