# feature: Queries
# transports: rest
"""The query language over devices, modules and job records: conditions, projections, aggregates, pages.

Every query names the script's own devices by a tag: other scripts fill the same hub."""

from azure.iot.hub.models import JobRequest, QuerySpecification, Twin, TwinProperties

from support import case, equal, eventually, new_device, new_module, raises, refused, registry, rest, run, scheduled_jobs, unique

GROUP = unique("group")
DEVICES = {}
EDGE = {}


def query(text, **options):
    return registry().query_iot_hub(QuerySpecification(query=text), **options)


def all_pages(text, size):
    """The rows of a query and the sizes of its pages."""
    rows, sizes, token = [], [], None
    while not sizes or token:
        page = query(text, continuation_token=token, max_item_count=size)
        rows += page.items
        sizes.append(len(page.items))
        token = page.continuation_token
        assert len(sizes) < 20, "pages without end"
    return rows, sizes


def columns(text):
    """What the rows of a query have that a twin has not."""
    result = query(text)
    equal(result.type, "Raw")
    return [row.additional_properties for row in result.items]


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
        "properties.desired.limit * 2 - 10 >= 70 AND -properties.desired.limit / 10 < 0": ["four", "three"],
        "properties.desired.limit % 20 = 10": ["one", "three", "two"],
        "properties.desired.$version = 2": ["four", "one", "three", "two"],
        "properties.desired.$metadata.limit.$lastUpdated >= '2020-01-01T00:00:00Z' AND tags.floor = 1": ["one"],
        "properties.reported.$version = 1 AND tags.floor = 1": ["one"],
        "properties.Desired.Limit > 0": [],
        "devices.tags.floor = 0x1": ["one"],
        "tags.floor IN [true, null, 2.0]": ["two"],
        "NOT (tags.floor = 1 OR tags.floor = 2)": ["three"],
        "(tags.flag OR tags.floor = 3) AND NOT tags.site.name = 'north'": ["three"],
        "tags.absent = undefined OR NOT tags.absent = 1": [],
        "capabilities.iotEdge = false AND authenticationType = 'sas' AND cloudToDeviceMessageCount = 0": ["four", "one", "three", "two"],
        "x509Thumbprint.primaryThumbprint = null AND tags.flag": ["one"],
        "tags.name = 'o\\u006ee' OR tags.name = 'it''s'": ["one"],
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
    # Without alias the last segment names the column; the service's own names have one spelling.
    equal(
        columns(f"SELECT tags.site.name, properties.desired.limit AS [[the limit]], LASTACTIVITYTIME AS seen FROM devices WHERE tags.run = '{GROUP}' AND tags.floor = 2"),
        [{"name": "south", "the limit": 30, "seen": "0001-01-01T00:00:00Z"}],
    )
    result = query(f"SELECT DEVICEID, ConnectionState, STATUS FROM devices WHERE tags.run = '{GROUP}' AND tags.name = 'four'")
    equal([(row.device_id, row.connection_state, row.status) for row in result.items], [(DEVICES["four"].id, "Disconnected", "disabled")])
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
def groups_of_several_keys():
    rows = columns(
        f"SELECT status, tags.site.name AS site, COUNT() AS n, SUM(properties.desired.limit) AS sum FROM devices WHERE tags.run = '{GROUP}' GROUP BY status, tags.site.name"
    )
    # The status is a member of the model.
    equal(sorted((row.get("site", ""), row["n"], row["sum"]) for row in rows), [("", 1, 40), ("North", 1, 50), ("north", 1, 30), ("south", 1, 30)])
    equal(len(columns(f"SELECT TOP 2 tags.name AS name, COUNT() AS n FROM devices WHERE tags.run = '{GROUP}' GROUP BY tags.name")), 2)
    equal(columns(f"SELECT COUNT(), AVG(tags.absent) AS none, SUM(tags.name) AS sum FROM devices WHERE tags.run = '{GROUP}'"), [{"count": 4, "sum": 0}])


@case
def edge_devices_and_their_scopes():
    edge = EDGE["edge"] = new_device("query", iot_edge=True)
    scope = registry().get_device(edge.id).device_scope
    registry().update_twin(edge.id, Twin(tags={"run": GROUP + "-edge"}))
    found = query(f"SELECT * FROM devices WHERE capabilities.iotEdge = true AND deviceScope = '{scope}'").items
    equal([twin.device_id for twin in found], [edge.id])
    equal(columns(f"SELECT COUNT() AS n FROM devices WHERE tags.run = '{GROUP}-edge' AND array_contains(parentScopes, '{scope}')"), [{"n": 0}])
    # The runtime's own modules are rows like others.
    found = query(f"SELECT * FROM devices.modules WHERE deviceId = '{edge.id}' AND STARTSWITH(moduleId, '$edge')").items
    equal(sorted(twin.module_id for twin in found), ["$edgeAgent", "$edgeHub"])


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
    # Whatever comes out: whole twins, columns, or as many as TOP allows.
    for start, sizes in (("SELECT *", [3, 1]), ("SELECT tags.name AS name", [3, 1]), ("SELECT TOP 3 *", [3]), ("SELECT TOP 99 deviceId", [3, 1])):
        equal(all_pages(f"{start} FROM devices WHERE tags.run = '{GROUP}'", 3)[1], sizes)
    equal(all_pages(f"SELECT COUNT() AS n FROM devices WHERE tags.run = '{GROUP}' GROUP BY tags.name", 1)[1], [4])
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


    result = query(f"SELECT deviceId, moduleId, tags.letter AS letter FROM devices.modules WHERE devices.modules.tags.run = '{GROUP}' AND moduleId != 'a'")
    equal((result.type, [(row.module_id, row.additional_properties) for row in result.items]), ("Raw", [("b", {"letter": "b"})]))
    result = query(f"SELECT moduleId, COUNT() AS n FROM devices.modules WHERE tags.run = '{GROUP}' GROUP BY moduleId")
    equal(sorted((row.module_id, row.additional_properties["n"]) for row in result.items), [("a", 1), ("b", 1)])
    rows, sizes = all_pages(f"SELECT * FROM devices.modules WHERE tags.run = '{GROUP}'", 1)
    equal(([twin.module_id for twin in rows], sizes), (["a", "b"], [1, 1]))
    equal(len(query(f"SELECT TOP 1 * FROM devices.modules WHERE tags.run = '{GROUP}'").items), 1)
    # A module's tags are its own.
    equal(query(f"SELECT * FROM devices.modules WHERE tags.run = '{GROUP}' AND tags.name = 'one'").items, [])


@case
def records_of_jobs_are_queried():
    ids = [unique("job"), unique("job")]
    for job_id in ids:
        update = Twin(etag="*", tags={"patched": True})
        condition = f"tags.run = '{GROUP}' AND tags.floor >= 1"
        request = JobRequest(job_id=job_id, type="scheduleUpdateTwin", update_twin=update, query_condition=condition, max_execution_time_in_seconds=60)
        scheduled_jobs().create_scheduled_job(job_id, request)
        eventually(lambda job_id=job_id: scheduled_jobs().get_scheduled_job(job_id).status == "completed", "the job to end")
    listed = ", ".join(f"'{job_id}'" for job_id in ids)
    one = DEVICES["one"].id
    everything = f"SELECT * FROM devices.jobs WHERE devices.jobs.jobId IN [{listed}]"
    for condition, number in {
        "": 6,
        f" AND devices.jobs.deviceId = '{one}'": 2,
        " AND devices.jobs.jobType = 'scheduleUpdateTwin' AND devices.jobs.status = 'completed'": 6,
        " AND devices.jobs.status = 'failed'": 0,
        " AND devices.jobs.createdTimeUtc > '2016-09-01'": 6,
        " AND createdDateTimeUtc < '2016-09-01'": 0,
        f" AND startTimeUtc > '2020' AND endTimeUtc > '2020' AND lastUpdatedDateTimeUtc > '2020' AND jobId = '{ids[0]}'": 3,
    }.items():
        result = query(everything + condition)
        equal((condition, result.type, len(result.items)), (condition, "DeviceJob", number))
    rows, sizes = all_pages(everything, 4)
    equal(sizes, [4, 2])
    keys = [(row.additional_properties["jobId"], row.device_id) for row in rows]
    equal(keys, sorted((job_id, DEVICES[name].id) for job_id in ids for name in ("one", "two", "three")))
    equal(all_pages(everything.replace("*", "TOP 5 *", 1), 4)[1], [4, 1])
    for text in ("SELECT jobId FROM devices.jobs", "SELECT COUNT() AS n FROM devices.jobs", "SELECT * FROM devices.jobs GROUP BY jobId",
                 "SELECT * FROM devices.jobs WHERE tags.run = 'x'"):  # fmt: skip
        with raises(400, "ArgumentInvalid"):
            query(text)


@case
def a_refusal_names_its_place():
    for text, place in {
        "SELECT * FROM devices WHERE tags.a = 1 tags": "Line 1:40 Unexpected character at input 'tags'",
        "SELECT * FROM devices\nWHERE tags.a ~ 1": "Line 2:14 Unexpected character at input '~'",
    }.items():
        with raises(400, "ArgumentInvalid") as refusal:
            query(text)
        assert f"SQL query parse failed due to following errors: {place}" in refusal.message, refusal.message
    with raises(400, "ArgumentInvalid"):
        query("SELECT * FROM devices WHERE deviceId = '" + "x" * 8192 + "'")


@case
def queries_that_are_refused():
    for text in (
        "SELECT", "nonsense", "SELECT * FROM things", "SELECT * FROM devices WHERE", "SELECT * FROM devices ORDER BY deviceId",
        "SELECT * FROM devices WHERE tags.a = 'open", "SELECT * FROM devices WHERE NOSUCH(tags.a)", "SELECT deviceId FROM devices.jobs",
        "SELECT * FROM devices WHERE tags.a LIKE 'x'", "", "SELECT DISTINCT status FROM devices",
        "SELECT * FROM devices WHERE LOWER(tags.a) = 'x'", "SELECT * FROM devices WHERE CONTAINS(tags.a, 'x')",
        "SELECT * FROM devices WHERE deviceId IN ('a')", "SELECT status, COUNT() AS n FROM devices", "SELECT * FROM devices WHERE tags.group = 1",
    ):  # fmt: skip
        with raises(400):
            query(text)
    with raises(400, "ArgumentInvalid"):
        query("SELECT * FROM devices WHERE tags.a =")
    equal(rest("POST", "/devices/query", {}).status, 400)
    refused(rest("POST", "/devices/query", {"query": "SELECT * FROM devices WHERE " + "(" * 5000}), 400, "ArgumentInvalid")


run()
