// feature: Bulk operations
// transports: rest
'use strict';

const assert = require('node:assert/strict');
const { registry, rejects, rest, run, unique } = require('./support');

run(async () => {
  const devices = registry();
  const prefix = unique('bulk');
  const batch = Array.from({ length: 100 }, (_, i) => ({ deviceId: `${prefix}-${i}` }));
  const statusOf = async (deviceId) => (await devices.get(deviceId)).responseBody.status;
  const refused = async (promise) => JSON.parse((await rejects(promise, { name: 'ArgumentError', status: 400 })).responseBody);

  // A hundred at once, each with keys of its own.
  const { responseBody: added, httpResponse } = await devices.addDevices(batch);
  assert.equal(httpResponse.statusCode, 200);
  assert.deepEqual(added, { isSuccessful: true, errors: [], warnings: [] });
  const [first, last] = await Promise.all([0, 99].map(async (i) => (await devices.get(`${prefix}-${i}`)).responseBody));
  assert.notEqual(first.authentication.symmetricKey.primaryKey, last.authentication.symmetricKey.primaryKey);
  assert.equal(Buffer.from(last.authentication.symmetricKey.primaryKey, 'base64').length, 32);

  // Entries are independent: what can be done is done.
  const fresh = `${prefix}-fresh`;
  const conflict = await refused(devices.addDevices([{ deviceId: fresh }, { deviceId: first.deviceId }]));
  assert.equal(conflict.isSuccessful, false);
  assert.equal(conflict.errors.length, 1);
  assert.equal(conflict.errors[0].deviceId, first.deviceId);
  assert.equal(conflict.errors[0].errorCode, 'DeviceAlreadyExists');
  assert.equal(typeof conflict.errors[0].errorStatus, 'string');
  assert.equal(await statusOf(fresh), 'enabled');
  const bad = await refused(devices.addDevices([{ deviceId: 'no spaces' }, { deviceId: `${prefix}-beside` }]));
  assert.deepEqual(bad.errors.map((error) => error.deviceId), ['no spaces']);
  assert.equal(await statusOf(`${prefix}-beside`), 'enabled');

  // Updates, by force and by ETag.
  await devices.updateDevices([first, last].map((device) => ({ ...device, status: 'disabled' })), true);
  assert.equal(await statusOf(first.deviceId), 'disabled');
  const after = (await devices.get(first.deviceId)).responseBody;
  assert.deepEqual(after.authentication, first.authentication);
  assert.equal(after.generationId, first.generationId);
  const mixed = await refused(devices.updateDevices([{ ...after, status: 'enabled' }, { ...last, status: 'enabled' }], false));
  assert.deepEqual(mixed.errors.map((error) => [error.deviceId, error.errorCode]), [[last.deviceId, 'PreconditionFailed']]);
  assert.equal(await statusOf(first.deviceId), 'enabled');
  assert.equal(await statusOf(last.deviceId), 'disabled');
  const absent = await refused(devices.updateDevices([{ deviceId: `${prefix}-absent`, status: 'enabled' }], true));
  assert.equal(absent.errors[0].errorCode, 'DeviceNotFound');

  // Twins in bulk, and a mixture of modes, which the package sends only one at a time.
  const answer = await rest('POST', '/devices', {
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify([
      { id: `${prefix}-1`, importMode: 'updateTwin', tags: { floor: 3 }, properties: { desired: { speed: 5 } } },
      { id: `${prefix}-2`, importMode: 'delete' },
      { id: `${prefix}-new`, importMode: 'create', status: 'disabled', tags: { floor: 4 } },
    ]),
  });
  assert.equal(answer.status, 200, answer.text);
  const { responseBody: twin } = await devices.getTwin(`${prefix}-1`);
  assert.deepEqual(twin.tags, { floor: 3 });
  assert.equal(twin.properties.desired.speed, 5);
  await rejects(devices.get(`${prefix}-2`), { name: 'DeviceNotFoundError' });
  assert.deepEqual((await devices.getTwin(`${prefix}-new`)).responseBody.tags, { floor: 4 });
  assert.equal(await statusOf(`${prefix}-new`), 'disabled');

  // Removal.
  await devices.removeDevices(batch.slice(3, 50), true);
  await rejects(devices.get(`${prefix}-3`), { name: 'DeviceNotFoundError' });
  const twice = await refused(devices.removeDevices([{ deviceId: `${prefix}-3` }, { deviceId: `${prefix}-60` }], true));
  assert.deepEqual(twice.errors.map((error) => [error.deviceId, error.errorCode]), [[`${prefix}-3`, 'DeviceNotFound']]);
  await rejects(devices.get(`${prefix}-60`), { name: 'DeviceNotFoundError' });

  // What is refused as a whole.
  const double = await rejects(devices.addDevices([{ deviceId: `${prefix}-d` }, { deviceId: `${prefix}-d` }]), { name: 'ArgumentError', status: 400 });
  assert.match(double.responseBody, /DeviceDefinedMultipleTimes/);
  await rejects(devices.get(`${prefix}-d`), { name: 'DeviceNotFoundError' });
  const many = Array.from({ length: 101 }, (_, i) => ({ id: `${prefix}-m${i}`, importMode: 'create' }));
  const tooMany = await rest('POST', '/devices', { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(many) });
  assert.equal(tooMany.status, 413);
  assert.equal(tooMany.headers['iothub-errorcode'], 'TooManyDevices');
  await rejects(devices.get(`${prefix}-m0`), { name: 'DeviceNotFoundError' });
  assert.throws(() => devices.addDevices([], () => {}), { name: 'ArgumentError' });
});
