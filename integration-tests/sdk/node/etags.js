// feature: ETags
// transports: rest
'use strict';

const assert = require('node:assert/strict');
const { createDevice, promised, registry, rejects, rest, run, unique } = require('./support');

const stale = { name: 'InvalidEtagError', status: 412, code: 'PreconditionFailed' };

run(async () => {
  const devices = registry();
  const device = await createDevice('etag');
  const { deviceId } = device;

  // Twins: each write of the back end makes a new ETag, and a `Twin` object insists on the one that it has.
  const { responseBody: mine } = await devices.getTwin(deviceId);
  const { responseBody: theirs } = await devices.getTwin(deviceId);
  assert.match(mine.etag, /^[A-Za-z0-9+/]+=*$/);
  assert.equal(theirs.etag, mine.etag);
  const first = mine.etag;
  await mine.update({ tags: { owner: 'me' } });
  assert.notEqual(mine.etag, first);
  await rejects(theirs.update({ tags: { owner: 'them' } }), stale);
  assert.deepEqual((await devices.getTwin(deviceId)).responseBody.tags, { owner: 'me' }, 'a refused patch leaves no trace');
  await theirs.get();
  assert.equal(theirs.etag, mine.etag);
  await theirs.update({ tags: { owner: 'them' } });
  await rejects(mine.update({ properties: { desired: { a: 1 } } }), stale);
  await mine.get();
  assert.equal(mine.tags.owner, 'them');

  // By id: any, the right one, quoted or not, and the wrong one.
  const { responseBody: forced } = await devices.updateTwin(deviceId, { properties: { desired: { a: 1 } } }, '*');
  const { responseBody: matched } = await devices.updateTwin(deviceId, { tags: { b: 1 } }, forced.etag);
  await devices.updateTwin(deviceId, { tags: { b: 2 } }, `"${matched.etag}"`);
  await rejects(devices.updateTwin(deviceId, { tags: { b: 3 } }, forced.etag), stale);
  await rejects(devices.updateTwin(deviceId, { tags: { b: 3 } }, device.etag), stale);
  assert.equal((await devices.getTwin(deviceId)).responseBody.tags.b, 2);

  // Module twins likewise, each for itself.
  await devices.addModule({ deviceId, moduleId: 'm' });
  const { responseBody: module } = await devices.getModuleTwin(deviceId, 'm');
  const { etag } = (await devices.getTwin(deviceId)).responseBody;
  await devices.updateModuleTwin(deviceId, 'm', { tags: { a: 1 } }, module.etag);
  await rejects(devices.updateModuleTwin(deviceId, 'm', { tags: { a: 2 } }, module.etag), stale);
  await rejects(module.update({ tags: { a: 2 } }), stale);
  assert.equal((await devices.getTwin(deviceId)).responseBody.etag, etag);

  // Identities of modules.
  const { responseBody: old } = await devices.getModule(deviceId, 'm');
  const { responseBody: updated } = await devices.updateModule({ ...old, managedBy: 'somebody' });
  assert.notEqual(updated.etag, old.etag);
  await rejects(devices.updateModule({ ...old, managedBy: 'nobody' }), stale);
  await devices.updateModule({ ...old, managedBy: 'anybody' }, true);
  // (The package's `removeModule` of a module object knows only callbacks.)
  const remove = (module) => promised((done) => devices.removeModule(module, done));
  await rejects(remove(updated), stale);
  const { responseBody: current } = await devices.getModule(deviceId, 'm');
  assert.equal(current.managedBy, 'anybody');
  await remove(current);
  await rejects(devices.getModule(deviceId, 'm'), { status: 404, code: 'ModuleNotFound' });

  // Identities of devices: the package always overwrites, except in bulk.
  const { responseBody: identity } = await devices.get(deviceId);
  await devices.updateTwin(deviceId, { tags: { c: 1 } }, '*');
  assert.equal((await devices.get(deviceId)).responseBody.etag, identity.etag, 'a twin has an ETag of its own');
  const { responseBody: result } = await devices.updateDevices([{ ...identity, status: 'disabled' }], false);
  assert.equal(result.isSuccessful, true);
  const error = await rejects(devices.updateDevices([{ ...identity, status: 'enabled' }], false), { name: 'ArgumentError', status: 400 });
  assert.equal(JSON.parse(error.responseBody).errors[0].errorCode, 'PreconditionFailed');
  await rejects(devices.removeDevices([identity], false), { name: 'ArgumentError', status: 400 });
  assert.equal((await devices.get(deviceId)).responseBody.status, 'disabled');
  await devices.removeDevices([(await devices.get(deviceId)).responseBody], false);
  await rejects(devices.get(deviceId), { name: 'DeviceNotFoundError' });

  // ETags are in headers too, quoted there.
  const other = await createDevice('etag');
  for (const path of [`/devices/${other.deviceId}`, `/twins/${other.deviceId}`]) {
    const { headers, text } = await rest('GET', path);
    assert.equal(headers.etag, `"${JSON.parse(text).etag}"`, path);
  }
  const { status } = await rest('DELETE', `/devices/${other.deviceId}`);
  assert.equal(status, 412, 'deleting takes an If-Match');
  await rejects(devices.updateTwin(unique('absent'), { tags: {} }, '*'), { name: 'DeviceNotFoundError', code: 'DeviceNotFound' });
});
