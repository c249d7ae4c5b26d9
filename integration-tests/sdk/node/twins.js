// feature: Twins, service side
// transports: rest
'use strict';

const assert = require('node:assert/strict');
const { createDevice, registry, rejects, rest, run, unique } = require('./support');

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
const invalid = { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' };

/** A section without `$metadata` and `$version`. */
function plain(section) {
  const { $metadata, $version, ...properties } = section;
  return properties;
}

run(async () => {
  const devices = registry();
  const { deviceId } = await createDevice('twin');
  const get = async () => (await devices.getTwin(deviceId)).responseBody;
  const patch = async (change) => (await devices.updateTwin(deviceId, change, '*')).responseBody;
  const desire = async (desired) => (await patch({ properties: { desired } })).properties.desired;

  // A fresh twin.
  const fresh = await get();
  assert.equal(fresh.deviceId, deviceId);
  assert.equal(fresh.status, 'enabled');
  assert.equal(fresh.connectionState, 'Disconnected');
  assert.equal(fresh.authenticationType, 'sas');
  assert.equal(fresh.cloudToDeviceMessageCount, 0);
  assert.equal(fresh.version, 2);
  assert.deepEqual(fresh.tags, {});
  for (const section of ['desired', 'reported']) {
    assert.equal(fresh.properties[section].$version, 1);
    assert.deepEqual(Object.keys(fresh.properties[section].$metadata), ['$lastUpdated']);
  }

  // Tags and desired properties merge; each request counts once.
  const first = await patch({ tags: { site: { building: 43, floor: 1 } }, properties: { desired: { speed: { min: 1, max: 9 }, mode: 'eco' } } });
  assert.deepEqual(first.tags, { site: { building: 43, floor: 1 } });
  assert.deepEqual(plain(first.properties.desired), { speed: { min: 1, max: 9 }, mode: 'eco' });
  assert.equal(first.properties.desired.$version, 2);
  assert.equal(first.version, 3);
  const second = await patch({ tags: { site: { floor: 2, wing: null } }, properties: { desired: { speed: { max: 10, min: null } } } });
  assert.deepEqual(second.tags, { site: { building: 43, floor: 2 } });
  assert.deepEqual(plain(second.properties.desired), { speed: { max: 10 }, mode: 'eco' });
  assert.equal(second.properties.desired.$version, 3);
  assert.deepEqual(plain((await get()).properties.desired), plain(second.properties.desired));

  // Metadata mirrors the tree and says when each part changed.
  const { $metadata } = second.properties.desired;
  assert.match($metadata.$lastUpdated, ISO);
  assert.match($metadata.speed.max.$lastUpdated, ISO);
  assert.equal($metadata.speed.max.$lastUpdatedVersion, 3);
  assert.equal($metadata.mode.$lastUpdatedVersion, 2);
  assert.ok(!('min' in $metadata.speed));

  // Values keep their types; arrays are replaced as a whole.
  const values = { flag: false, zero: 0, big: 2 ** 52 - 1, small: -(2 ** 52), float: 2.5, text: '2020-01-02T03:04:05.60Z', empty: {}, list: [1, [2, { a: 'b' }], 'c'], ünï: 'ö' };
  assert.deepEqual(plain(await desire(values)), { speed: { max: 10 }, mode: 'eco', ...values });
  assert.deepEqual((await desire({ list: [9] })).list, [9]);
  assert.deepEqual((await desire({ list: { now: 'an object' } })).list, { now: 'an object' });
  assert.equal((await desire({ list: 5 })).list, 5);
  assert.deepEqual((await desire({ made: { gone: null } })).made, {});

  // What a back end cannot write is ignored.
  const before = await get();
  const ignored = await patch({ deviceId: 'other', version: 99, properties: { reported: { fake: true }, desired: { $version: 1, $metadata: {} } } });
  assert.deepEqual(plain(ignored.properties.reported), {});
  assert.equal(ignored.properties.reported.$version, 1);
  assert.equal(ignored.deviceId, deviceId);
  assert.ok(ignored.version - before.version <= 1);

  // Refusals, after which everything is as it was.
  const quiet = await get();
  let nested = { property: 1 };
  for (let i = 0; i < 11; i += 1) nested = { deeper: nested };
  const refused = [
    { 'a.b': 1 }, { 'a b': 1 }, { $a: 1 }, { 'a\u0001': 1 }, { long: 'x'.repeat(4097) }, { list: [1, null] },
    { large: 2 ** 52 }, { large: -(2 ** 52) - 1 }, nested, { good: 1, bad: { $x: 1 } },
  ];
  for (const desired of refused) await rejects(patch({ tags: { touched: true }, properties: { desired } }), invalid);
  for (const body of [{ tags: 'text' }, { properties: { desired: [1] } }, { properties: 1 }]) await rejects(patch(body), { ...invalid, code: undefined });
  const tooMuch = Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`k${i}`, 'x'.repeat(4000)]));
  await rejects(patch({ properties: { desired: tooMuch } }), invalid);
  await rejects(patch({ tags: { a: 'x'.repeat(4000), b: 'x'.repeat(4000), c: 'x'.repeat(400) } }), invalid);
  assert.deepEqual(JSON.parse(JSON.stringify(await get())), JSON.parse(JSON.stringify(quiet)));
  const within = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`k${i}`, 'x'.repeat(3900)]));
  const other = await createDevice('twin');
  await devices.updateTwin(other.deviceId, { properties: { desired: within }, tags: { edge: 'x'.repeat(4096) } }, '*');

  // Sections as null are emptied; a whole twin can be sent back; PUT replaces.
  assert.deepEqual((await patch({ tags: null })).tags, {});
  assert.deepEqual(plain((await patch({ properties: { desired: null } })).properties.desired), {});
  const whole = await get();
  await whole.update({ ...JSON.parse(JSON.stringify(whole)), tags: { back: true } });
  assert.deepEqual(whole.tags, { back: true });
  const put = await rest('PUT', `/twins/${deviceId}`, {
    headers: { 'Content-Type': 'application/json', 'If-Match': `"${whole.etag}"` },
    body: JSON.stringify({ tags: { only: 1 }, properties: { desired: { only: 2 } } }),
  });
  assert.equal(put.status, 200, put.text);
  const replaced = await get();
  assert.deepEqual(replaced.tags, { only: 1 });
  assert.deepEqual(plain(replaced.properties.desired), { only: 2 });

  await rejects(devices.getTwin(unique('absent')), { name: 'DeviceNotFoundError', status: 404, code: 'DeviceNotFound' });
  await rejects(devices.updateTwin(unique('absent'), { tags: {} }, '*'), { name: 'DeviceNotFoundError', status: 404, code: 'DeviceNotFound' });
});
