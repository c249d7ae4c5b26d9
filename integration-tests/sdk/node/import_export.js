// feature: Import and export of identities
// transports: rest
'use strict';

const assert = require('node:assert/strict');
const { admin, createDevice, eventually, registry, rejects, run, unique } = require('./support');

/** Makes a container in the hub's own blob storage. */
async function makeContainer() {
  const { containerUri } = await admin(`containers/${unique('container')}`, { method: 'PUT' });
  const [address, token] = containerUri.split('?');
  const blob = (name) => `${address}/${name}?${token}`;
  return {
    uri: containerUri,
    async write(name, text) {
      const answer = await fetch(blob(name), { method: 'PUT', headers: { 'x-ms-blob-type': 'BlockBlob' }, body: text });
      assert.equal(answer.status, 201, await answer.text());
    },
    async read(name) {
      const answer = await fetch(blob(name));
      return answer.ok ? answer.text() : null;
    },
  };
}

const lines = (text) => text.split(/\r?\n/).filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));

run(async () => {
  const devices = registry();

  /** Starts a job as soon as no other one is running, of which a hub has but one at a time, and waits for its end. */
  const finish = async (start) => {
    const { jobId } = await eventually('the turn of a job', () => start().catch((error) => {
      if (error.response?.statusCode !== 403) throw error;
      assert.match(error.responseBody, /JobQuotaExceeded|403003/);
    }));
    return eventually('the job to end', async () => {
      const job = await devices.getJob(jobId);
      return ['completed', 'failed', 'cancelled'].includes(job.status) && job;
    });
  };

  // Import: new devices, a module, a twin, changes, removals, and lines that are wrong.
  const changed = await createDevice('import');
  const removed = await createDevice('import');
  const [plain, full, bad] = [unique('import'), unique('import'), unique('import')];
  const key = (fill) => Buffer.alloc(32, fill).toString('base64');
  const input = await makeContainer();
  await input.write('devices.txt', [
    { id: plain, importMode: 'create', status: 'enabled' },
    {
      id: full, importMode: 'createOrUpdate', status: 'disabled', statusReason: 'imported', tags: { site: 1 }, properties: { desired: { speed: 2 } },
      authentication: { type: 'sas', symmetricKey: { primaryKey: key(1), secondaryKey: key(2) } } },
    { id: full, moduleId: 'm', importMode: 'createOrUpdate', status: 'enabled', tags: { of: 'module' } },
    { id: changed.deviceId, importMode: 'update', status: 'disabled' },
    { id: removed.deviceId, importMode: 'delete', status: 'enabled' },
    { id: changed.deviceId, importMode: 'create', status: 'enabled' },
    { id: bad, importMode: 'create', status: 'enabled', authentication: { type: 'sas', symmetricKey: { primaryKey: 'x', secondaryKey: 'y' } } },
  ].map((line) => JSON.stringify(line)).join('\r\n'));
  const output = await makeContainer();
  const imported = await finish(() => devices.importDevicesFromBlob(input.uri, output.uri));
  assert.equal(imported.type, 'import');
  assert.equal(imported.status, 'completed', JSON.stringify(imported));
  assert.equal(imported.progress, 100);
  assert.match(imported.startTimeUtc, /^20/);
  assert.match(imported.endTimeUtc, /^20/);
  assert.equal((await devices.get(plain)).responseBody.authentication.symmetricKey.primaryKey.length, 44);
  const { responseBody: identity } = await devices.get(full);
  assert.deepEqual([identity.status, identity.statusReason, identity.authentication.symmetricKey.primaryKey], ['disabled', 'imported', key(1)]);
  const { responseBody: twin } = await devices.getTwin(full);
  assert.deepEqual([twin.tags, twin.properties.desired.speed], [{ site: 1 }, 2]);
  assert.deepEqual((await devices.getModuleTwin(full, 'm')).responseBody.tags, { of: 'module' });
  assert.equal((await devices.get(changed.deviceId)).responseBody.status, 'disabled');
  await rejects(devices.get(removed.deviceId), { name: 'DeviceNotFoundError' });
  await rejects(devices.get(bad), { name: 'DeviceNotFoundError' });
  const errors = lines(await output.read('importErrors.log'));
  assert.deepEqual(errors.map((error) => error.deviceId ?? error.id).sort(), [changed.deviceId, bad].sort());
  assert.ok(errors.every((error) => error.errorCode), JSON.stringify(errors));

  // Export, with keys and without.
  for (const excludeKeys of [false, true]) {
    const target = await makeContainer();
    const exported = await finish(() => devices.exportDevicesToBlob(target.uri, excludeKeys));
    assert.equal(exported.type, 'export');
    assert.equal(exported.status, 'completed', JSON.stringify(exported));
    assert.equal(exported.excludeKeysInExport, excludeKeys);
    const rows = lines(await target.read('devices.txt'));
    const row = rows.find((line) => line.id === full && !line.moduleId);
    assert.equal(row.status, 'disabled');
    assert.deepEqual(row.tags, { site: 1 });
    assert.equal(row.properties.desired.speed, 2);
    assert.equal(row.authentication.symmetricKey.primaryKey, excludeKeys ? null : key(1));
    assert.ok(rows.some((line) => line.id === full && line.moduleId === 'm'));
    assert.ok(!rows.some((line) => line.id === removed.deviceId));
  }

  // The history of jobs, and what is refused.
  const { responseBody: history } = await devices.listJobs();
  assert.ok(history.some((job) => job.jobId === imported.jobId && job.status === 'completed'));
  await rejects(devices.getJob(unique('absent')), { status: 404, code: 'JobNotFound' });
  await rejects(devices.cancelJob(unique('absent')), { status: 404, code: 'JobNotFound' });
  const forged = output.uri.replace(/sig=[^&]*/, 'sig=AAAA');
  const absent = output.uri.replace('/container-', '/nothing-');
  const elsewhere = 'https://account.blob.core.windows.net/container?sig=x';
  const refused = { name: 'ArgumentError', status: 400, code: 'BlobContainerValidationError' };
  for (const address of [forged, absent, elsewhere, 'not an address']) {
    await rejects(devices.importDevicesFromBlob(address, output.uri), refused);
    await rejects(devices.importDevicesFromBlob(input.uri, address), refused);
    await rejects(devices.exportDevicesToBlob(address, false), refused);
  }

  // By the hub's own identity instead of by tokens.
  const target = await makeContainer();
  const byIdentity = await finish(() => devices.exportDevicesToBlobByIdentity(target.uri.split('?')[0], true));
  assert.equal(byIdentity.status, 'completed', JSON.stringify(byIdentity));
  assert.ok(lines(await target.read('devices.txt')).some((line) => line.id === plain));
});
