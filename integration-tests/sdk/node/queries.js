// feature: Queries
// transports: mqtt, mqtt-ws
'use strict';

const assert = require('node:assert/strict');
const { allPages, clientFor, connect, createDevice, jobClient, eventually, registry, rejects, report, run, unique } = require('./support');

run(async () => {
  const devices = registry();
  const mark = unique('q');
  const all = [];
  for (let i = 0; i < 5; i += 1) {
    const device = await createDevice('query', i === 4 ? { status: 'disabled' } : {});
    await devices.updateTwin(device.deviceId, { tags: { mark, floor: i, site: { name: i % 2 ? 'odd' : 'even' } }, properties: { desired: { speed: i * 1.5 } } }, '*');
    all.push(device);
  }
  const ids = (...numbers) => numbers.map((i) => all[i].deviceId).sort();
  const client = await connect(all[0]);
  await report(await client.getTwin(), { temperature: 21.5, 'with-dash': { a: true }, list: [1, 2] });

  const query = async (text, size) => (await allPages(devices.createQuery(text, size))).rows;
  const where = async (condition) => (await query(`SELECT * FROM devices WHERE tags.mark = '${mark}' AND (${condition})`)).map((row) => row.deviceId).sort();

  // Conditions.
  assert.deepEqual(await where('tags.floor >= 0'), ids(0, 1, 2, 3, 4));
  assert.deepEqual(await where('tags.floor > 1 and tags.floor <= 3'), ids(2, 3));
  assert.deepEqual(await where("tags.site.name = 'odd' OR tags.floor = 0"), ids(0, 1, 3));
  assert.deepEqual(await where("NOT tags.site.name = 'odd'"), ids(0, 2, 4));
  assert.deepEqual(await where("tags.site.name != 'odd'"), ids(0, 2, 4));
  assert.deepEqual(await where("tags.site.name <> 'even'"), ids(1, 3));
  assert.deepEqual(await where('tags.floor IN [1, 4, 99]'), ids(1, 4));
  assert.deepEqual(await where('tags.floor NIN [1, 4]'), ids(0, 2, 3));
  assert.deepEqual(await where(`deviceId in ['${all[2].deviceId}']`), ids(2));
  assert.deepEqual(await where(`STARTSWITH(deviceId, '${all[3].deviceId.slice(0, -2)}')`), ids(3));
  assert.deepEqual(await where('properties.desired.speed = 1.5'), ids(1));
  assert.deepEqual(await where('is_defined(properties.reported.temperature)'), ids(0));
  assert.deepEqual(await where('properties.reported.temperature > 21 AND properties.reported.[[with-dash]].a = true'), ids(0));
  assert.deepEqual(await where("connectionState = 'Connected'"), ids(0));
  assert.deepEqual(await where("status = 'disabled'"), ids(4));
  assert.deepEqual(await where('capabilities.iotEdge = true'), []);
  assert.deepEqual(await where('devices.tags.floor = 2'), ids(2));
  assert.deepEqual(await where("tags.floor = '2'"), []);
  assert.deepEqual(await where('properties.desired.speed * 2 - 3 = 0 OR -tags.floor % 4 = 0'), ids(0, 1, 4));
  assert.deepEqual(await where('properties.reported.$version > 1'), ids(0));
  assert.deepEqual(await where("properties.desired.$metadata.speed.$lastUpdated >= '2020-01-01' AND tags.floor = 0x3"), ids(3));
  assert.deepEqual(await where("ENDSWITH(tags.site.name, 'd') AND NOT (tags.floor = 1 OR tags.absent = 1)"), [], 'undefined is not false');
  assert.deepEqual(await where('ARRAY_CONTAINS(properties.reported.list, 2)'), ids(0));
  assert.deepEqual(await where("DeviceID != 'x' AND AUTHENTICATIONTYPE = 'sas' AND tags.[[floor]] = 1"), ids(1));
  assert.deepEqual(await where('tags.absent != 1 OR tags.absent = undefined OR tags.absent NIN [1]'), []);

  // Whole twins, as objects that can be written.
  const twins = (await devices.createQuery(`select * from devices where tags.mark='${mark}' and tags.floor=2`).nextAsTwin()).result;
  assert.equal(twins.length, 1);
  assert.equal(twins[0].properties.desired.speed, 3);
  assert.match(twins[0].etag, /./);
  await twins[0].update({ tags: { floor: 22 } });
  assert.deepEqual(await where('tags.floor = 22'), ids(2), 'changes are visible at once');

  // Projections and aggregates.
  const projected = await query(`SELECT deviceId AS Id, tags.site.name AS Site, properties.reported FROM devices WHERE tags.mark='${mark}' AND tags.floor = 0`);
  assert.equal(projected.length, 1);
  assert.equal(projected[0].Id, all[0].deviceId);
  assert.equal(projected[0].Site, 'even');
  assert.ok(!('tags' in projected[0]));
  const groups = await query(`SELECT tags.site.name AS name, COUNT() AS number FROM devices WHERE tags.mark='${mark}' GROUP BY tags.site.name`);
  assert.deepEqual(groups.sort((a, b) => (a.name < b.name ? -1 : 1)), [{ name: 'even', number: 3 }, { name: 'odd', number: 2 }]);
  assert.deepEqual(await query(`SELECT COUNT() AS n FROM devices WHERE tags.mark='${mark}'`), [{ n: 5 }]);
  assert.deepEqual(
    await query(`SELECT MIN(properties.desired.speed) AS low, MAX(properties.desired.speed) AS high, AVG(properties.desired.speed) AS mean, SUM(tags.site.name) AS none, COUNT() FROM devices WHERE tags.mark='${mark}'`),
    [{ low: 0, high: 6, mean: 3, none: 0, count: 5 }],
  );
  const pairs = await query(`SELECT status, tags.site.name AS site, COUNT() AS n FROM devices WHERE tags.mark='${mark}' GROUP BY tags.site.name, status`);
  assert.deepEqual(pairs.map(({ status, site, n }) => `${status} ${site} ${n}`).sort(), ['disabled even 1', 'enabled even 2', 'enabled odd 2']);
  assert.deepEqual(
    await query(`SELECT DEVICEID, tags.floor, tags.absent FROM devices WHERE tags.mark='${mark}' AND tags.floor = 3`),
    [{ deviceId: all[3].deviceId, floor: 3 }],
    'canonical names, and what is not there is left out',
  );
  assert.equal((await query(`SELECT TOP 2 * FROM devices WHERE tags.mark='${mark}'`)).length, 2);

  // Pages: each row once, and the last page says so.
  const { rows, sizes } = await allPages(devices.createQuery(`SELECT * FROM devices WHERE tags.mark='${mark}'`, 2));
  assert.deepEqual(sizes, [2, 2, 1]);
  assert.deepEqual(rows.map((row) => row.deviceId).sort(), ids(0, 1, 2, 3, 4));
  const exact = await allPages(devices.createQuery(`SELECT * FROM devices WHERE tags.mark='${mark}'`, 5));
  assert.deepEqual(exact.rows.length, 5);
  const page = await devices.createQuery(`SELECT * FROM devices WHERE tags.mark='${mark}'`, 3).next();
  assert.equal(page.result.length, 3);
  assert.equal(page.message.headers['x-ms-item-type'], 'Twin');
  assert.ok(page.message.headers['x-ms-continuation']);

  for (const [start, expected] of [['SELECT deviceId', [2, 2, 1]], ['SELECT TOP 3 *', [2, 1]], ['SELECT TOP 4 tags.floor', [2, 2]]]) {
    const found = await allPages(devices.createQuery(`${start} FROM devices WHERE tags.mark='${mark}'`, 2));
    assert.deepEqual(found.sizes, expected, start);
  }
  const raw = await devices.createQuery(`SELECT COUNT() AS n FROM devices WHERE tags.mark='${mark}'`, 1).next();
  assert.equal(raw.message.headers['x-ms-item-type'], 'Raw');
  assert.ok(!raw.message.headers['x-ms-continuation']);
  const other = devices.createQuery('SELECT * FROM devices', 1);
  await rejects(other.next(page.message.headers['x-ms-continuation']), { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' });

  // Modules.
  const { deviceId } = all[1];
  const { responseBody: module } = await devices.addModule({ deviceId, moduleId: 'm' });
  await devices.updateModuleTwin(deviceId, 'm', { tags: { mark } }, '*');
  const modules = await query(`SELECT * FROM devices.modules WHERE tags.mark = '${mark}'`);
  assert.deepEqual(modules.map((row) => [row.deviceId, row.moduleId]), [[deviceId, 'm']]);
  const moduleClient = clientFor(module);
  await moduleClient.open();
  assert.equal((await query(`SELECT * FROM devices.modules WHERE tags.mark = '${mark}' AND connectionState = 'Connected'`)).length, 1);

  await devices.addModule({ deviceId, moduleId: 'n' });
  const named = `FROM devices.modules WHERE deviceId IN ['${deviceId}']`;
  assert.deepEqual(await query(`SELECT moduleId, tags.mark AS mark ${named}`), [{ moduleId: 'm', mark }, { moduleId: 'n' }]);
  assert.deepEqual(await query(`SELECT moduleId, COUNT() AS n ${named} GROUP BY moduleId`), [{ moduleId: 'm', n: 1 }, { moduleId: 'n', n: 1 }]);
  assert.deepEqual((await allPages(devices.createQuery(`SELECT * ${named}`, 1))).sizes, [1, 1]);
  assert.equal((await query(`SELECT TOP 1 * ${named}`)).length, 1);

  // Records of jobs.
  const jobs = [unique('job'), unique('job')];
  for (const job of jobs) {
    await jobClient().scheduleTwinUpdate(job, `tags.mark = '${mark}' AND tags.site.name = 'odd'`, { etag: '*', tags: { patched: true } }, new Date(), 60);
    await eventually('the job to end', async () => (await jobClient().getJob(job)).jobStatus.status === 'completed');
  }
  const records = `FROM devices.jobs WHERE devices.jobs.jobId IN ['${jobs.join("', '")}']`;
  const found = await allPages(devices.createQuery(`SELECT * ${records}`, 3));
  assert.deepEqual(found.sizes, [3, 1]);
  const keys = (rows) => rows.map((row) => `${row.jobId}/${row.deviceId}`).sort();
  assert.deepEqual(keys(found.rows), keys(jobs.flatMap((jobId) => ids(1, 3).map((id) => ({ jobId, deviceId: id })))));
  assert.equal((await query(`SELECT * ${records} AND devices.jobs.deviceId = '${all[1].deviceId}' AND devices.jobs.status = 'completed' AND devices.jobs.createdTimeUtc > '2016-09-01'`)).length, 2);
  assert.equal((await query(`SELECT TOP 2 * ${records} AND jobType = 'scheduleUpdateTwin'`)).length, 2);
  assert.equal((await devices.createQuery(`SELECT * ${records}`).next()).message.headers['x-ms-item-type'], 'DeviceJob');
  for (const text of [`SELECT deviceId ${records}`, `SELECT COUNT() AS n ${records}`, 'SELECT * FROM devices.jobs WHERE tags.a = 1']) {
    await rejects(devices.createQuery(text).next(), { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' });
  }

  // What is no query.
  const refusal = await rejects(devices.createQuery('SELECT * FROM devices\nWHERE tags.a ~ 1').next(), { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' });
  assert.match(refusal.responseBody, /SQL query parse failed due to following errors: Line 2:14 Unexpected character at input '~'/);
  for (const text of ['SELECT', 'SELECT * FROM nothing', 'SELECT * FROM devices WHERE', 'SELECT * FROM devices WHERE tags.a = ', "SELECT * FROM devices WHERE tags.a = 'b", 'DELETE FROM devices', "SELECT * FROM devices WHERE CONTAINS(deviceId, 'a')", 'SELECT status, COUNT() AS n FROM devices', 'SELECT * FROM devices ORDER BY deviceId']) {
    await rejects(devices.createQuery(text).next(), { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' });
  }
  await rejects(devices.createQuery('SELECT * FROM devices').next('no such continuation'), { name: 'ArgumentError', status: 400 });
});
