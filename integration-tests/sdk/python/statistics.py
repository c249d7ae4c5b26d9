# feature: Statistics
# transports: mqtt, mqtt-ws
"""Counts of devices and connections, and purging a device's queue of messages.

Other scripts run against the same hub, so counts are compared as bounds."""

from support import admin, case, connected, connection_state, equal, eventually, new_device, refused, registry, rest, run, unique


def device_counts():
    found = registry().get_device_registry_statistics()
    return found.total_device_count, found.enabled_device_count, found.disabled_device_count


@case
def devices_are_counted():
    new_device("statistics")
    new_device("statistics", status="disabled")
    total, enabled, disabled = device_counts()
    equal(total, enabled + disabled)
    assert enabled >= 1 and disabled >= 1, (enabled, disabled)


@case
def connections_are_counted():
    device = new_device("statistics")
    with connected(device):
        eventually(lambda: connection_state(device.id) == "Connected", "the device to be connected")
        assert registry().get_service_statistics().connected_device_count >= 1


@case
def the_last_activity_is_told():
    device = new_device("statistics")
    equal(registry().get_device(device.id).last_activity_time.year, 1)
    with connected(device) as client:
        client.send_message("hello")
        seen = eventually(lambda: registry().get_device(device.id), "the device")
        assert seen.last_activity_time.year > 2000 and seen.connection_state_updated_time.year > 2000, seen
    eventually(lambda: connection_state(device.id) == "Disconnected", "the device to be gone")


@case
def a_queue_is_purged():
    device = new_device("statistics")
    purge = registry().protocol.cloud_to_device_messages.purge_cloud_to_device_message_queue
    found = purge(device.id)
    equal((found.device_id, found.total_messages_purged), (device.id, 0))
    for body in ("one", "two"):
        admin("POST", "c2d", {"deviceId": device.id, "body": body})
    equal(registry().get_device(device.id).cloud_to_device_message_count, 2)
    equal((purge(device.id).total_messages_purged, purge(device.id).total_messages_purged), (2, 0))
    equal(registry().get_device(device.id).cloud_to_device_message_count, 0)
    refused(rest("DELETE", f"/devices/{unique('absent')}/commands"), 404, "DeviceNotFound")


run()
