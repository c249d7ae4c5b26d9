// feature: File upload
// transports: mqtt, mqtt-ws, amqp, amqp-ws, http
'use strict';

const assert = require('node:assert/strict');
const { Readable } = require('node:stream');
const { Client, admin, connect, createDevice, eventually, promised, rejects, run, sasToken, tracked, transport, within } = require('./support');

// Files go over HTTPS whatever the client's transport is.
run(async () => {
  const device = await createDevice('upload');
  const client = await connect(device);
  const upload = (name, bytes) => within('an upload', client.uploadToBlob(name, Readable.from([bytes]), bytes.length));
  const place = (name) => within('a place', client.getBlobSharedAccessSignature(name));
  const addressOf = (granted) =>
    `https://${granted.hostName}/${granted.containerName}/${granted.blobName.split('/').map(encodeURIComponent).join('/')}${granted.sasToken}`;
  const notify = (id, ...status) => within('an answer', promised((done) => client.notifyBlobUploadStatus(id, ...status, done)));

  // What a device is granted.
  const granted = await place('logs/today.txt');
  assert.equal(granted.blobName, `${device.deviceId}/logs/today.txt`);
  assert.match(granted.correlationId, /./);
  assert.match(granted.hostName, /./);
  assert.match(granted.sasToken, /^\?.*sig=/);
  await notify(granted.correlationId, false, 500, 'gave up');

  // Small and large files, read back by the address that the device has.
  const large = Buffer.alloc(9 * 1024 * 1024, 'abcdefghij');
  for (const [name, bytes] of [['small.txt', Buffer.from('grün')], ['sub directory/large.bin', large], ['small.txt', Buffer.from('written again')]]) {
    await upload(name, bytes);
    const again = await place(name);
    const read = await fetch(addressOf(again));
    assert.equal(read.status, 200);
    assert.ok(Buffer.from(await read.arrayBuffer()).equals(bytes), name);
    await notify(again.correlationId, true, 200, 'read');
    const told = await eventually('a notification for the back end', async () =>
      (await admin('file-notifications')).notifications.filter((each) => each.deviceId === device.deviceId && each.blobName === again.blobName).at(-1));
    assert.equal(told.blobSizeInBytes, bytes.length);
    assert.ok(told.blobUri.endsWith(again.blobName.split('/').map(encodeURIComponent).join('/')), told.blobUri);
  }

  // An address is for one blob and only with its signature.
  const one = await place('small.txt');
  const other = addressOf(one).replace('small.txt', 'sub%20directory/large.bin');
  for (const address of [other, addressOf(one).replace(/sig=[^&]*/, 'sig=AAAA'), addressOf(one).split('?')[0]]) {
    const { status } = await fetch(address);
    assert.ok(status === 403 || status === 401 || status === 404, `${status} for ${address}`);
  }

  // An upload is notified once, with a correlation id of this device.
  await notify(one.correlationId, true, 200, 'ok');
  await rejects(notify(one.correlationId, true, 200, 'ok'), {});
  await rejects(notify('unknown', true, 200, 'ok'), {});
  // (With a token instead of a key: a client that has a key and is never opened leaves a timer behind when it is closed.)
  const withToken = (...token) => tracked(Client.fromSharedAccessSignature(sasToken(...token), transport));
  const stranger = withToken(await createDevice('upload'));
  const foreign = await place('foreign.txt');
  await rejects(promised((done) => stranger.notifyBlobUploadStatus(foreign.correlationId, true, 200, 'ok', done)), {});
  await notify(foreign.correlationId, false, 500, 'not used');

  // Ten uploads may be in flight.
  const ten = [];
  for (let i = 0; i < 10; i += 1) ten.push(await place(`many/${i}`));
  const tooMany = await rejects(place('many/10'), {});
  assert.match(tooMany.responseBody, /DeviceMaximumActiveFileUploadLimitExceeded|403006/);
  await notify(ten[0].correlationId, false, 500, 'gave up');
  await place('many/10');

  // Refusals.
  const strange = Buffer.alloc(32, 1).toString('base64');
  await rejects(withToken(device, 600, strange).getBlobSharedAccessSignature('x'), { status: 401 });
  await rejects(stranger.getBlobSharedAccessSignature('x'.repeat(1025)), { status: 400 });
});
