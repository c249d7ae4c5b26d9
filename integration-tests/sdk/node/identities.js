// feature: Device identities
// transports: rest
'use strict';

const assert = require('node:assert/strict');
const { registry, rejects, run, unique } = require('./support');

const NEVER = /^0001-01-01T00:00:00/;
const key = (bytes, fill = 7) => Buffer.alloc(bytes, fill).toString('base64');
const sas = (primaryKey, secondaryKey) => ({ type: 'sas', symmetricKey: { primaryKey, secondaryKey } });

run(async () => {
  const devices = registry();
  const deviceId = unique('identity');

  // Without keys the hub makes some.
  const { responseBody: created, httpResponse } = await devices.create({ deviceId });
  assert.equal(httpResponse.statusCode, 200);
  assert.match(httpResponse.headers['x-ms-request-id'], /./);
  assert.equal(created.deviceId, deviceId);
  assert.match(created.generationId, /./);
  assert.match(created.etag, /^[^"]+$/);
  assert.equal(created.status, 'enabled');
  assert.equal(created.statusReason, null);
  assert.equal(created.connectionState, 'Disconnected');
  assert.equal(created.cloudToDeviceMessageCount, 0);
  for (const time of ['connectionStateUpdatedTime', 'statusUpdatedTime', 'lastActivityTime']) assert.match(created[time], NEVER, time);
  assert.equal(created.authentication.type, 'sas');
  const { primaryKey, secondaryKey } = created.authentication.symmetricKey;
  assert.equal(Buffer.from(primaryKey, 'base64').length, 32);
  assert.notEqual(primaryKey, secondaryKey);
  assert.deepEqual(created.authentication.x509Thumbprint, { primaryThumbprint: null, secondaryThumbprint: null });
  assert.equal(created.capabilities.iotEdge, false);

  assert.deepEqual((await devices.get(deviceId)).responseBody, created);
  await rejects(devices.create({ deviceId }), { name: 'DeviceAlreadyExistsError', status: 409, code: 'DeviceAlreadyExists' });
  assert.deepEqual((await devices.get(deviceId)).responseBody, created, 'a refused create leaves no trace');

  // An update replaces: what it does not name goes back to its default.
  const { responseBody: disabled } = await devices.update({
    deviceId, status: 'disabled', statusReason: 'being repaired', authentication: created.authentication });
  assert.equal(disabled.status, 'disabled');
  assert.equal(disabled.statusReason, 'being repaired');
  assert.doesNotMatch(disabled.statusUpdatedTime, NEVER);
  assert.equal(disabled.generationId, created.generationId);
  assert.notEqual(disabled.etag, created.etag);
  assert.deepEqual(disabled.authentication, created.authentication);
  const { responseBody: enabled } = await devices.update({ deviceId, status: 'enabled', authentication: created.authentication });
  assert.equal(enabled.status, 'enabled');
  assert.equal(enabled.statusReason, null);
  await rejects(devices.update({ deviceId: unique('absent') }), { name: 'DeviceNotFoundError', status: 404, code: 'DeviceNotFound' });

  // Keys of one's own.
  for (const bytes of [16, 64]) {
    const { responseBody } = await devices.update({ deviceId, authentication: sas(key(bytes), key(bytes, 8)) });
    assert.deepEqual(responseBody.authentication.symmetricKey, { primaryKey: key(bytes), secondaryKey: key(bytes, 8) });
  }
  for (const keys of [[key(15), key(15)], [key(65), key(65)], ['not base64!', key(16)], [key(16), '']]) {
    await rejects(devices.update({ deviceId, authentication: sas(...keys) }), { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' });
  }
  await rejects(devices.update({ deviceId, authentication: { type: 'none' } }), { name: 'ArgumentError', status: 400 });

  // Certificates.
  const thumbprint = 'AB'.repeat(20);
  const { responseBody: selfSigned } = await devices.create({
    deviceId: unique('self-signed'), authentication: { x509Thumbprint: { primaryThumbprint: thumbprint } } });
  assert.equal(selfSigned.authentication.type, 'selfSigned');
  assert.equal(selfSigned.authentication.x509Thumbprint.primaryThumbprint, thumbprint);
  assert.deepEqual(selfSigned.authentication.symmetricKey, { primaryKey: null, secondaryKey: null });
  const { responseBody: byAuthority } = await devices.create({
    deviceId: unique('by-authority'), authentication: { type: 'certificateAuthority' } });
  assert.equal(byAuthority.authentication.type, 'certificateAuthority');
  await rejects(
    devices.create({ deviceId: unique('bad-thumbprint'), authentication: { x509Thumbprint: { primaryThumbprint: 'AB:CD' } } }),
    { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' });

  // Ids.
  const awkward = `${unique('id')}-._%*?!(),:=@$';`;
  await devices.create({ deviceId: awkward });
  assert.equal((await devices.get(awkward)).responseBody.deviceId, awkward);
  await devices.delete(awkward);
  const longest = unique('long').padEnd(128, 'x');
  assert.equal((await devices.create({ deviceId: longest })).responseBody.deviceId, longest);
  for (const bad of ['a/b', 'a b', 'a"b', 'grün', `${longest}x`]) {
    await rejects(devices.create({ deviceId: bad }), { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' });
  }
  const upper = unique('CASE');
  await devices.create({ deviceId: upper });
  await rejects(devices.get(upper.toLowerCase()), { name: 'DeviceNotFoundError' });

  // Listing.
  const { responseBody: listed } = await devices.list();
  assert.ok(listed.length > 0 && listed.length <= 1000);
  assert.ok(listed.every((device) => device.deviceId && device.authentication));

  // Deleting, and the same id again.
  const removed = await devices.delete(deviceId);
  assert.equal(removed.httpResponse.statusCode, 204);
  await rejects(devices.get(deviceId), { name: 'DeviceNotFoundError', status: 404, code: 'DeviceNotFound' });
  await rejects(devices.getTwin(deviceId), { name: 'DeviceNotFoundError', status: 404, code: 'DeviceNotFound' });
  await rejects(devices.delete(deviceId), { name: 'DeviceNotFoundError', status: 404, code: 'DeviceNotFound' });
  const { responseBody: again } = await devices.create({ deviceId });
  assert.notEqual(again.generationId, created.generationId);
  assert.notEqual(again.authentication.symmetricKey.primaryKey, primaryKey);

  // Credentials of the back end.
  const { Registry } = require('azure-iothub');
  const withKey = (name, value) => Registry.fromConnectionString(
    `HostName=${process.env.HUB_HOST};SharedAccessKeyName=${name};SharedAccessKey=${value}`);
  const { SharedAccessKey } = require('azure-iothub').ConnectionString.parse(process.env.SERVICE_CONNECTION_STRING);
  const refused = { name: 'UnauthorizedError', status: 401, code: 'IotHubUnauthorizedAccess' };
  await rejects(withKey('iothubowner', key(32)).get(deviceId), refused);
  await rejects(withKey('nobody', SharedAccessKey).get(deviceId), refused);
  await rejects(withKey('device', SharedAccessKey).get(deviceId), refused);
  await rejects(withKey('registryRead', SharedAccessKey).create({ deviceId: unique('x') }), refused);
  assert.equal((await withKey('registryRead', SharedAccessKey).get(deviceId)).responseBody.deviceId, deviceId);
});
