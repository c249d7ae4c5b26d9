// feature: Statistics
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { close, connect, createDevice, eventually, feedbackOf, registry, rest, run, sendToDevice, unique } = require('./support');

// Other scripts use the same hub, so counts are compared with what this script alone makes sure of.
run(async () => {
  const devices = registry();
  const count = async () => (await devices.getRegistryStatistics()).responseBody;
  const connected = async () => JSON.parse((await rest('GET', '/statistics/service')).text).connectedDeviceCount;

  const device = await createDevice('statistics');
  await createDevice('statistics', { status: 'disabled' });
  const totals = await count();
  assert.deepEqual(Object.keys(totals).sort(), ['disabledDeviceCount', 'enabledDeviceCount', 'totalDeviceCount']);
  assert.ok(totals.enabledDeviceCount >= 1);
  assert.ok(totals.disabledDeviceCount >= 1);
  assert.equal(totals.totalDeviceCount, totals.enabledDeviceCount + totals.disabledDeviceCount);

  const state = async () => (await devices.get(device.deviceId)).responseBody;
  const client = await connect(device);
  const online = await eventually('the device to be connected', async () => {
    const identity = await state();
    return identity.connectionState === 'Connected' && identity;
  });
  assert.ok(await connected() >= 1);
  assert.doesNotMatch(online.lastActivityTime, /^0001/);
  assert.doesNotMatch(online.connectionStateUpdatedTime, /^0001/);
  assert.equal((await devices.getTwin(device.deviceId)).responseBody.connectionState, 'Connected');
  await close(client);
  await eventually('the device to be disconnected', async () => (await state()).connectionState === 'Disconnected');
  assert.equal((await state()).etag, device.etag, 'connecting does not change the identity');

  // Purging the queue of messages to a device, which the service counts.
  for (const id of ['one', 'two']) await sendToDevice(device, id, { 'iothub-messageid': id, 'iothub-ack': id === 'one' ? 'full' : 'positive' });
  assert.equal((await state()).cloudToDeviceMessageCount, 2);
  const purge = async ({ deviceId }) => rest('DELETE', `/devices/${deviceId}/commands`);
  const purged = await purge(device);
  assert.equal(purged.status, 200, purged.text);
  assert.deepEqual(JSON.parse(purged.text), { deviceId: device.deviceId, moduleId: null, totalMessagesPurged: 2 });
  assert.equal((await state()).cloudToDeviceMessageCount, 0);
  assert.equal(JSON.parse((await purge(device)).text).totalMessagesPurged, 0);
  assert.deepEqual(await feedbackOf(device, 1), [['one', 'Purged']]);
  assert.equal((await purge({ deviceId: unique('absent') })).status, 404);
});
