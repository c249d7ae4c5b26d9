# feature: Automatic device configurations
# transports: mqtt, mqtt-ws
"""Configurations of devices and modules: documents, effects, priorities, refusals."""

from azure.iot.hub.models import Configuration, ConfigurationContent, ConfigurationMetrics, ConfigurationQueriesTestInput, QuerySpecification, Twin

from support import case, configurations, connected, equal, eventually, new_device, new_module, raises, registry, run, unique


def configuration(config_id, condition, content=None, priority=1, **more):
    content = content or ConfigurationContent(device_content={"properties.desired.fan": {"speed": 1}})
    return Configuration(id=config_id, content=content, target_condition=condition, priority=priority, **more)


def device_content(**paths):
    return ConfigurationContent(device_content={f"properties.desired.{path}": value for path, value in paths.items()})


def tagged(fleet):
    device = new_device("config")
    registry().update_twin(device.id, Twin(tags={"fleet": fleet}))
    return device


def desired(device):
    section = registry().get_twin(device.id).properties.desired
    return {key: value for key, value in section.items() if not key.startswith("$")}


def of(fleet):
    return f"tags.fleet = '{fleet}'"


@case
def a_configuration_is_created_read_changed_and_deleted():
    manager = configurations()
    config_id = unique("config")
    document = configuration(
        config_id, of("nobody"), priority=7, labels={"made": "here"},
        metrics=ConfigurationMetrics(queries={"all": "SELECT deviceId FROM devices WHERE tags.fleet = 'nobody'"}),
    )  # fmt: skip
    made = manager.create_configuration(document)
    equal((made.id, made.priority, made.target_condition, made.labels), (config_id, 7, of("nobody"), {"made": "here"}))
    equal(made.content.device_content, {"properties.desired.fan": {"speed": 1}})
    assert made.etag and made.schema_version and made.created_time_utc and made.last_updated_time_utc, made
    assert {"targetedCount", "appliedCount"} <= set(made.system_metrics.queries), made.system_metrics
    read = manager.get_configuration(config_id)
    equal((read.etag, read.created_time_utc), (made.etag, made.created_time_utc))
    assert config_id in [c.id for c in manager.get_configurations()]
    read.priority, read.labels = 9, {"changed": "yes"}
    changed = manager.update_configuration(read, f'"{read.etag}"')
    equal((changed.priority, changed.labels), (9, {"changed": "yes"}))
    assert changed.etag != made.etag
    with raises(412, "PreconditionFailed"):
        manager.update_configuration(read, f'"{made.etag}"')
    equal(manager.delete_configuration(config_id), None)
    with raises(404, "ConfigurationNotFound"):
        manager.get_configuration(config_id)


@case
def devices_are_configured():
    fleet = unique("fleet")
    first = tagged(fleet)
    registry().update_twin(first.id, Twin(properties={"desired": {"own": True}}))
    config_id = unique("config")
    configurations().create_configuration(configuration(config_id, of(fleet)))
    eventually(lambda: desired(first) == {"own": True, "fan": {"speed": 1}}, "the first device to be configured")
    second = tagged(fleet)  # it comes later and is configured as well
    eventually(lambda: desired(second) == {"fan": {"speed": 1}}, "the second device to be configured")
    query = QuerySpecification(query=f"SELECT deviceId FROM devices WHERE configurations.[[{config_id}]].status = 'Applied'")
    eventually(lambda: {row.device_id for row in registry().query_iot_hub(query).items} == {first.id, second.id}, "both to be applied")
    eventually(lambda: configurations().get_configuration(config_id).system_metrics.results.get("appliedCount") == 2, "the metrics")
    registry().update_twin(second.id, Twin(tags={"fleet": None}))
    eventually(lambda: desired(second) == {}, "the settings to be taken back")
    configurations().delete_configuration(config_id)
    eventually(lambda: desired(first) == {"own": True}, "the settings to be taken back")


@case
def a_connected_device_is_told():
    fleet, config_id = unique("fleet"), unique("config")
    device = tagged(fleet)
    with connected(device) as client:
        patches = []
        client.on_twin_desired_properties_patch_received = patches.append
        configurations().create_configuration(configuration(config_id, of(fleet)))
        eventually(lambda: patches == [{"fan": {"speed": 1}, "$version": 2}], "the settings")
        configurations().delete_configuration(config_id)
        eventually(lambda: len(patches) == 2, "the settings to be taken back")
        equal(patches[1]["$version"], 3)
        equal(client.get_twin()["desired"], {"$version": 3})


@case
def the_highest_priority_wins_path_by_path():
    fleet = unique("fleet")
    device = tagged(fleet)
    low, high = unique("low"), unique("high")
    manager = configurations()
    manager.create_configuration(configuration(low, of(fleet), device_content(mode="low", only_low=1), priority=1))
    eventually(lambda: desired(device) == {"mode": "low", "only_low": 1}, "the low one")
    manager.create_configuration(configuration(high, of(fleet), device_content(mode="high"), priority=2))
    eventually(lambda: desired(device) == {"mode": "high", "only_low": 1}, "the high one")
    changed = manager.get_configuration(low)
    changed.priority = 3
    manager.update_configuration(changed, "*")
    eventually(lambda: desired(device) == {"mode": "low", "only_low": 1}, "the order to change")
    manager.delete_configuration(low)
    eventually(lambda: desired(device) == {"mode": "high"}, "the other one")
    manager.delete_configuration(high)
    eventually(lambda: desired(device) == {}, "nothing to be left")


@case
def modules_are_configured():
    fleet = unique("fleet")
    device = new_device("config")
    module = new_module(device)
    registry().update_module_twin(device.id, module.id, Twin(tags={"fleet": fleet}))
    content = ConfigurationContent(module_content={"properties.desired.rate": 5})
    config_id = unique("config")
    configurations().create_configuration(configuration(config_id, f"FROM devices.modules WHERE tags.fleet = '{fleet}'", content))
    eventually(lambda: registry().get_module_twin(device.id, module.id).properties.desired.get("rate") == 5, "the module to be configured")
    configurations().delete_configuration(config_id)


@case
def content_cannot_be_changed():
    fleet = unique("fleet")
    config_id = unique("config")
    made = configurations().create_configuration(configuration(config_id, of(fleet)))
    made.content = device_content(other=2)
    changed = configurations().update_configuration(made, "*")
    equal(changed.content.device_content, {"properties.desired.fan": {"speed": 1}})
    configurations().delete_configuration(config_id)


@case
def queries_are_tested():
    def test(condition, queries=None):
        return configurations().test_configuration_queries(
            ConfigurationQueriesTestInput(target_condition=condition, custom_metric_queries=queries or {})
        )

    good = test("tags.a = 1", {"m": "SELECT deviceId FROM devices WHERE tags.a = 1"})
    equal((good.target_condition_error, good.custom_metric_query_errors or {}), (None, {}))
    bad = test("tags.a = ", {"m": "SELECT nonsense"})
    assert bad.target_condition_error and bad.custom_metric_query_errors["m"], bad


@case
def an_edge_device_takes_content_once():
    edge = new_device("config", iot_edge=True)
    content = ConfigurationContent(
        modules_content={
            "$edgeAgent": {"properties.desired": {"schemaVersion": "1.1", "runtime": {"type": "docker"}}},
            "$edgeHub": {"properties.desired": {"routes": {"all": "FROM /* INTO $upstream"}}},
        }
    )
    equal(configurations().apply_configuration_on_edge_device(edge.id, content), None)
    equal(registry().get_module_twin(edge.id, "$edgeAgent").properties.desired["runtime"], {"type": "docker"})
    with raises(400):
        configurations().apply_configuration_on_edge_device(new_device("config").id, content)
    with raises(404):
        configurations().apply_configuration_on_edge_device(unique("absent"), content)


@case
def documents_that_are_refused():
    manager = configurations()
    config_id = unique("config")
    manager.create_configuration(configuration(config_id, of("nobody")))
    with raises(409, "ConfigurationAlreadyExists"):
        manager.create_configuration(configuration(config_id, of("nobody")))
    manager.delete_configuration(config_id)
    both = ConfigurationContent(device_content={"properties.desired.a": 1}, module_content={"properties.desired.a": 1})
    bad = (
        configuration(unique("Upper"), "*"),
        configuration(unique("config"), "tags.a ="),
        configuration(unique("config"), of("nobody"), both),
        configuration(unique("config"), of("nobody"), ConfigurationContent()),
        configuration(unique("config"), of("nobody"), ConfigurationContent(device_content={"tags.a": 1})),
        configuration(unique("config"), of("nobody"), priority=-1),
    )
    for document in bad:
        with raises(400):
            manager.create_configuration(document)
    absent = unique("absent")
    with raises(404):
        manager.update_configuration(configuration(absent, of("nobody")), "*")


run()
