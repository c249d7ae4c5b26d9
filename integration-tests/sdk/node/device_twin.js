// feature: Twins, device side
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { close, connect, createDevice, eventually, registry, rejects, report, run, watchDesired } = require('./support');

run(async () => {
  const devices = registry();
  const device = await createDevice('device-twin');
  const { deviceId } = device;
  const desire = async (desired) => (await devices.updateTwin(deviceId, { properties: { desired } }, '*')).responseBody.properties.desired;
  const reportedInHub = async () => (await devices.getTwin(deviceId)).responseBody.properties.reported;

  // What was desired while the device was away is in the twin that it gets; tags are not.
  await devices.updateTwin(deviceId, { tags: { secret: 1 }, properties: { desired: { speed: 5, gone: { soon: 1 } } } }, '*');
  const client = await connect(device);
  const { twin, patches } = await watchDesired(client);
  assert.deepEqual(twin.properties.desired, { speed: 5, gone: { soon: 1 }, $version: 2 });
  assert.equal(twin.properties.reported.$version, 1);
  assert.ok(!JSON.stringify(twin.properties).includes('secret'));

  // Reported properties merge, and are there at once.
  const { etag, version } = (await devices.getTwin(deviceId)).responseBody;
  await report(twin, { state: { on: true, level: 3 }, list: [1, 2], text: 'ö', none: {} });
  await report(twin, { state: { level: null, mode: 'eco' }, list: [3] });
  const { $metadata, $version, ...reported } = await reportedInHub();
  assert.deepEqual(reported, { state: { on: true, mode: 'eco' }, list: [3], text: 'ö', none: {} });
  assert.equal($version, 3);
  assert.match($metadata.state.mode.$lastUpdated, /Z$/);
  const after = (await devices.getTwin(deviceId)).responseBody;
  assert.equal(after.etag, etag, 'reported properties leave the ETag alone');
  assert.equal(after.version, version);
  await client.getTwin();
  assert.deepEqual(twin.properties.reported.state, { on: true, mode: 'eco' });
  patches.length = 0;

  // What the hub refuses is an error of the device's, and changes nothing.
  const refusals = [{ 'a.b': 1 }, { $own: 1 }, { list: [null] }, { text: 'x'.repeat(4097) }, { n: 2 ** 52 }, { good: 1, bad: { 'no space': 1 } }];
  for (const refusal of refusals) {
    const error = await rejects(report(twin, refusal), {});
    assert.ok(error instanceof Error);
  }
  assert.equal((await reportedInHub()).$version, 3);
  const tooMuch = Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`k${i}`, 'x'.repeat(4000)]));
  await rejects(report(twin, tooMuch), {});
  assert.equal((await reportedInHub()).$version, 3);

  // Notifications carry just the change and the new version, in order.
  const paths = [];
  twin.on('properties.desired.speed', (speed) => paths.push(speed));
  for (let speed = 6; speed < 26; speed += 1) await desire({ speed });
  await eventually('twenty notifications', () => patches.length === 20);
  assert.deepEqual(patches, Array.from({ length: 20 }, (_, i) => ({ speed: i + 6, $version: i + 3 })));
  assert.deepEqual(paths.slice(-20), Array.from({ length: 20 }, (_, i) => i + 6));
  assert.equal(twin.properties.desired.speed, 25);

  // Removed keys come as null, so that the client's own copy loses them.
  patches.length = 0;
  await desire({ gone: { soon: null }, added: [1, { a: 'b' }] });
  await eventually('a removed key', () => patches.length);
  assert.deepEqual(patches[0].gone, { soon: null });
  assert.deepEqual(twin.properties.desired, { speed: 25, gone: {}, added: [1, { a: 'b' }], $version: 23 });
  patches.length = 0;
  await devices.updateTwin(deviceId, { properties: { desired: null } }, '*');
  await eventually('the emptied section', () => patches.length);
  assert.deepEqual(patches[0], { speed: null, gone: null, added: null, $version: 24 });
  assert.deepEqual(twin.properties.desired, { $version: 24 });
  assert.deepEqual(Object.keys((await devices.getTwin(deviceId)).responseBody.properties.desired).sort(), ['$metadata', '$version']);

  // Tags alone notify nobody: the next notification is the next desired change.
  patches.length = 0;
  await devices.updateTwin(deviceId, { tags: { secret: 2 } }, '*');
  await desire({ last: true });
  await eventually('the next notification', () => patches.length);
  assert.deepEqual(patches, [{ last: true, $version: 25 }]);

  // Nothing is queued for a device that is away.
  await close(client);
  await desire({ missed: 1 });
  const again = await connect(device);
  const later = await watchDesired(again);
  assert.equal(later.twin.properties.desired.missed, 1);
  await desire({ seen: 1 });
  await eventually('a notification after coming back', () => later.patches.length);
  assert.deepEqual(later.patches, [{ seen: 1, $version: 27 }]);
});
