// feature: Statistics
// transports: mqtt, mqtt-ws
'use strict';

const assert = require('node:assert/strict');
const { close, connect, createDevice, eventually, registry, rest, run } = require('./support');

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
});
