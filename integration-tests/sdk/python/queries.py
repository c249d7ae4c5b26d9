# feature: Queries
# transports: rest
"""The query language over devices and modules: conditions, projections, aggregates, pages.

Every query names the script's own devices by a tag: other scripts fill the same hub."""

from azure.iot.hub.models import QuerySpecification, Twin, TwinProperties

from support import case, equal, new_device, new_module, raises, refused, registry, rest, run, unique

GROUP = unique("group")
DEVICES = {}


def query(text, **options):
    return registry().query_iot_hub(QuerySpecification(query=text), **options)


def where(condition):
    """Names of the script's devices that meet a condition."""
    result = query(f"SELECT * FROM devices WHERE tags.run = '{GROUP}' AND ({condition})")
    equal(result.type, "Twin")
    return sorted(twin.tags["name"] for twin in result.items)


@case
def four_devices_are_set_up():
    tags = {
        "one": {"floor": 1, "site": {"name": "north"}, "flag": True},
        "two": {"floor": 2, "site": {"name": "south"}, "flag": False},
        "three": {"floor": 3, "site": {"name": "North"}},
        "four": {"floor": "1", "odd-name": 1},
    }
    for name, more in tags.items():
        device = new_device("query", status="disabled" if name == "four" else "enabled")
        desired = TwinProperties(desired={"limit": len(name) * 10})
        registry().update_twin(device.id, Twin(tags={"run": GROUP, "name": name, **more}, properties=desired))
        DEVICES[name] = device
    equal(where("true"), ["four", "one", "three", "two"])


@case
def conditions_choose():
    expected = {
        "tags.floor = 1": ["one"],
        "tags.floor = '1'": ["four"],
        "tags.floor >= 2": ["three", "two"],
        "tags.floor != 1": ["three", "two"],
        "tags.floor <> 1 AND NOT tags.floor = 3": ["two"],
        "tags.floor < 2 OR tags.site.name = 'North'": ["one", "three"],
        "tags.site.name = 'north'": ["one"],
        "tags.flag": ["one"],
        "tags.flag = false": ["two"],
        "is_defined(tags.flag)": ["one", "two"],
        "NOT is_defined(tags.site)": ["four"],
        "tags.floor IN [1, 3, 'x']": ["one", "three"],
        "tags.name NIN ['one', 'two']": ["four", "three"],
        "properties.desired.limit > 30": ["four", "three"],
        "properties.desired.limit + 10 = tags.floor * 40": ["one"],
        "properties.desired.$version = 2": ["four", "one", "three", "two"],
        "STARTSWITH(tags.name, 't')": ["three", "two"],
        "endswith(tags.name, 'o') and tags.floor = 2": ["two"],
        "status = 'disabled'": ["four"],
        "connectionState = 'Connected'": [],
        "tags.[[odd-name]] = 1": ["four"],
        "tags.absent != 1": [],
        'tags.name = "one"': ["one"],
        f"deviceId = '{DEVICES['two'].id}'": ["two"],
        f"DeviceId IN ['{DEVICES['two'].id}', '{DEVICES['one'].id}', 'absent']": ["one", "two"],
    }
    equal({condition: where(condition) for condition in expected}, expected)


@case
def projections():
    result = query(f"SELECT deviceId, tags.floor AS floor, tags.site.name AS site FROM devices WHERE tags.run = '{GROUP}' AND tags.name = 'one'")
    equal(result.type, "Raw")
    equal([row.device_id for row in result.items], [DEVICES["one"].id])
    equal(result.items[0].additional_properties, {"floor": 1, "site": "north"})
    result = query(f"SELECT tags.flag AS flag FROM devices WHERE tags.run = '{GROUP}' AND tags.name = 'three'")
    equal(result.items[0].additional_properties, {})


@case
def aggregates():
    mine = f"FROM devices WHERE tags.run = '{GROUP}'"
    result = query(f"SELECT COUNT() AS n {mine}")
    equal((result.type, [row.additional_properties for row in result.items]), ("Raw", [{"n": 4}]))
    result = query(f"SELECT MIN(tags.floor) AS low, MAX(tags.floor) AS high, AVG(tags.floor) AS mean, SUM(tags.floor) AS sum {mine}")
    equal([row.additional_properties for row in result.items], [{"low": 1, "high": 3, "mean": 2, "sum": 6}])
    result = query(f"SELECT tags.flag AS flag, COUNT() AS n {mine} GROUP BY tags.flag")
    rows = sorted((str(row.additional_properties.get("flag")), row.additional_properties["n"]) for row in result.items)
    equal(rows, [("False", 1), ("None", 2), ("True", 1)])
    equal([row.additional_properties for row in query("SELECT COUNT() AS n FROM devices WHERE tags.run = 'nobody'").items], [{"n": 0}])


@case
def pages_resume():
    text = f"SELECT * FROM devices WHERE tags.run = '{GROUP}'"
    names, token, pages = [], None, 0
    while pages == 0 or token:
        page = query(text, continuation_token=token, max_item_count=2)
        assert len(page.items) <= 2, page.items
        names += [twin.tags["name"] for twin in page.items]
        token = page.continuation_token
        pages += 1
        assert pages < 6, "pages without end"
    equal(sorted(names), ["four", "one", "three", "two"])
    equal(len(query(f"SELECT TOP 3 * FROM devices WHERE tags.run = '{GROUP}'").items), 3)
    token = query(text, max_item_count=1).continuation_token
    with raises(400, "ArgumentInvalid"):
        query("SELECT * FROM devices", continuation_token=token)
    with raises(400, "ArgumentInvalid"):
        query(text, continuation_token="nonsense")


@case
def modules_are_queried():
    device = DEVICES["one"]
    for name in ("a", "b"):
        new_module(device, name)
        registry().update_module_twin(device.id, name, Twin(tags={"run": GROUP, "letter": name}))
    result = query(f"SELECT * FROM devices.modules WHERE tags.run = '{GROUP}'")
    equal((result.type, sorted((t.device_id, t.module_id) for t in result.items)), ("Twin", [(device.id, "a"), (device.id, "b")]))
    result = query(f"SELECT * FROM devices.modules WHERE deviceId = '{device.id}' AND moduleId = 'b'")
    equal([twin.tags["letter"] for twin in result.items], ["b"])
    result = query(f"SELECT COUNT() AS n FROM devices.modules WHERE deviceId IN ['{device.id}']")
    equal(result.items[0].additional_properties, {"n": 2})


@case
def queries_that_are_refused():
    for text in (
        "SELECT", "nonsense", "SELECT * FROM things", "SELECT * FROM devices WHERE", "SELECT * FROM devices ORDER BY deviceId",
        "SELECT * FROM devices WHERE tags.a = 'open", "SELECT * FROM devices WHERE NOSUCH(tags.a)", "SELECT deviceId FROM devices.jobs",
        "SELECT * FROM devices WHERE tags.a LIKE 'x'", "",
    ):  # fmt: skip
        with raises(400):
            query(text)
    with raises(400, "ArgumentInvalid"):
        query("SELECT * FROM devices WHERE tags.a =")
    equal(rest("POST", "/devices/query", {}).status, 400)
    refused(rest("POST", "/devices/query", {"query": "SELECT * FROM devices WHERE " + "(" * 5000}), 400, "ArgumentInvalid")


run()
