# feature: Edge devices and scopes
# transports: rest
"""Edge devices, their own modules, and the devices below them."""

from support import case, equal, new_device, raises, random_key, registry, run, unique


def new_edge(parent=None):
    return registry().create_device_with_sas(unique("edge"), None, None, "enabled", iot_edge=True, parent_scopes=parent)


@case
def an_edge_device_has_a_scope():
    edge = new_edge()
    equal(edge.capabilities.iot_edge, True)
    assert edge.device_scope.startswith(f"ms-azure-iot-edge://{edge.device_id}-"), edge.device_scope
    equal(registry().get_device(edge.device_id).device_scope, edge.device_scope)
    twin = registry().get_twin(edge.device_id)
    equal((twin.device_scope, twin.capabilities.iot_edge), (edge.device_scope, True))


@case
def the_scope_cannot_be_chosen():
    made = registry().create_device_with_sas(unique("edge"), None, None, "enabled", iot_edge=True, device_scope="ms-azure-iot-edge://mine-1")
    assert made.device_scope.startswith(f"ms-azure-iot-edge://{made.device_id}-"), made.device_scope
    updated = registry().update_device_with_sas(
        made.device_id, None, random_key(), random_key(), "enabled", iot_edge=True, device_scope="ms-azure-iot-edge://mine-2"
    )
    equal(updated.device_scope, made.device_scope)


@case
def an_edge_device_owns_two_modules():
    edge = new_edge()
    modules = {module.module_id: module for module in registry().get_modules(edge.device_id)}
    equal(sorted(modules), ["$edgeAgent", "$edgeHub"])
    for module in modules.values():
        equal(module.managed_by.lower(), "iotedge")
    equal(registry().get_module_twin(edge.device_id, "$edgeAgent").module_id, "$edgeAgent")
    with raises(400, "ArgumentInvalid"):
        registry().create_module_with_sas(edge.device_id, "$edgeExtra", "me", None, None)


@case
def a_leaf_device_names_its_parent():
    edge = new_edge()
    leaf = registry().create_device_with_sas(unique("leaf"), None, None, "enabled", device_scope=edge.device_scope)
    equal((leaf.device_scope, leaf.parent_scopes), (edge.device_scope, [edge.device_scope]))
    twin = registry().get_twin(leaf.device_id)
    equal((twin.device_scope, twin.parent_scopes), (edge.device_scope, [edge.device_scope]))
    orphan = registry().update_device_with_sas(leaf.device_id, None, random_key(), random_key(), "enabled")
    assert not orphan.device_scope and not orphan.parent_scopes, orphan


@case
def parent_scopes_alone_make_no_leaf():
    leaf = registry().create_device_with_sas(unique("leaf"), None, None, "enabled", parent_scopes=new_edge().device_scope)
    assert not leaf.device_scope and not leaf.parent_scopes, leaf


@case
def edge_devices_may_be_nested():
    top = new_edge()
    below = new_edge(parent=[top.device_scope])
    equal(below.parent_scopes, [top.device_scope])
    assert below.device_scope != top.device_scope


@case
def the_capability_can_be_switched():
    device = new_device("edge")
    keys = random_key(), random_key()
    on = registry().update_device_with_sas(device.id, None, *keys, "enabled", iot_edge=True)
    assert on.capabilities.iot_edge and on.device_scope, on
    off = registry().update_device_with_sas(device.id, None, *keys, "enabled", iot_edge=False)
    equal(off.capabilities.iot_edge, False)


run()
