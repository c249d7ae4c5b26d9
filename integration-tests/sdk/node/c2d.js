// feature: Cloud-to-device messages
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const {
  Client, OVER_AMQP, clientFor, close, createDevice, eventually, feedbackOf, promised, registry, run, sasToken, sendToDevice, tracked, transport, unique, within,
} = require('./support');

// The package's own sender speaks AMQP, so messages are sent by REST here; what is under test is the device.
run(async () => {
  const devices = registry();
  const queued = async ({ deviceId }) => (await devices.get(deviceId)).responseBody.cloudToDeviceMessageCount;
  const refusal = async (answer, status, code) => {
    assert.deepEqual([answer.status, answer.headers['iothub-errorcode']], [status, code], answer.text);
  };

  /** Opens a client that collects its messages. */
  const listen = async (client) => {
    const received = [];
    client.on('message', (message) => {
      received.push(message);
      client.complete(message, () => {});
    });
    await within('a connection', client.open());
    return received;
  };

  // Messages wait for a device that is away, and come in order.
  const device = await createDevice('c2d');
  for (const body of ['one', 'two', 'three']) assert.equal((await sendToDevice(device, body)).status, 204);
  assert.equal(await queued(device), 3);
  assert.equal((await devices.getTwin(device.deviceId)).responseBody.cloudToDeviceMessageCount, 3);
  const client = clientFor(device);
  const received = await listen(client);
  await eventually('three messages', () => received.length === 3);
  assert.deepEqual(received.map((message) => message.getData().toString()), ['one', 'two', 'three']);
  await eventually('an empty queue', async () => await queued(device) === 0);

  // Properties, bodies of any bytes, none at all and large ones.
  const expiry = new Date(Date.now() + 600_000).toISOString();
  await sendToDevice(device, '{"a":"grün"}', {
    'iothub-messageid': 'id-1', 'iothub-correlationid': 'correlation/1', 'iothub-userid': 'me', 'iothub-contenttype': 'application/json',
    'iothub-contentencoding': 'utf-8', 'iothub-expiry': expiry, 'iothub-ack': 'full', 'iothub-app-plain': 'value', 'iothub-app-signs': "a b&c=d/e#f+g%h?'$",
  });
  await eventually('a message', () => received.length === 4);
  const message = received[3];
  assert.equal(message.getData().toString(), '{"a":"grün"}');
  assert.equal(message.messageId, 'id-1');
  assert.equal(message.correlationId, 'correlation/1');
  // The package's AMQP messages leave the user id out.
  assert.equal(message.userId, OVER_AMQP ? '' : 'me');
  assert.equal(message.contentType, 'application/json');
  assert.equal(message.contentEncoding, 'utf-8');
  assert.equal(new Date(message.expiryTimeUtc).getTime(), Date.parse(expiry));
  assert.equal(message.to, `/devices/${device.deviceId}/messages/devicebound`);
  const own = Object.fromEntries(message.properties.propertyList.map(({ key, value }) => [key, value]));
  assert.equal(own.plain, 'value');
  assert.equal(own.signs, "a b&c=d/e#f+g%h?'$");
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  for (const body of [bytes, '', Buffer.alloc(65_000, 'x')]) await sendToDevice(device, body);
  await eventually('three bodies', () => received.length === 7);
  assert.deepEqual(received.slice(4).map((m) => Buffer.from(m.getData()).length), [256, 0, 65_000]);
  assert.deepEqual(Buffer.from(received[4].getData()), bytes);

  // Who asks to be told learns that the device has got its message.
  assert.deepEqual(await feedbackOf(device, 1), [['id-1', 'Success']]);

  // The hub remembers the subscription over a renewal, which does not subscribe again.
  const renewed = tracked(Client.fromSharedAccessSignature(sasToken(device, 600), transport));
  await close(client);
  const afterwards = await listen(renewed);
  await sendToDevice(device, 'before');
  await eventually('a message', () => afterwards.length === 1);
  await within('a renewal', promised((done) => renewed.updateSharedAccessSignature(sasToken(device, 700), done)));
  await sendToDevice(device, 'after');
  await eventually('a message after the renewal', () => afterwards.length === 2);
  assert.deepEqual(afterwards.map((m) => m.getData().toString()), ['before', 'after']);
  await close(renewed);

  // AMQP alone can give a message back, which is delivered again at once, or have it never delivered again.
  if (OVER_AMQP) {
    const choosy = await createDevice('c2d');
    const picky = clientFor(choosy);
    const seen = [];
    picky.on('message', (offered) => {
      seen.push(offered.getData().toString());
      if (seen.length < 3) picky.abandon(offered, () => {});
      else if (seen.length === 3) picky.reject(offered, () => {});
      else picky.complete(offered, () => {});
    });
    await within('a connection', picky.open());
    for (const [id, body] of [['r', 'rejected'], ['c', 'completed']]) {
      await sendToDevice(choosy, body, { 'iothub-messageid': id, 'iothub-ack': 'full' });
      await eventually('an empty queue', async () => await queued(choosy) === 0);
    }
    assert.deepEqual(seen, ['rejected', 'rejected', 'rejected', 'completed']);
    assert.deepEqual(await feedbackOf(choosy, 2), [['c', 'Success'], ['r', 'Rejected']]);
    await close(picky);
  }

  // A queue holds fifty messages; it is of one device, and goes with it.
  const full = await createDevice('c2d');
  for (let i = 0; i < 50; i += 1) assert.equal((await sendToDevice(full, String(i))).status, 204);
  await refusal(await sendToDevice(full, '51'), 403, 'DeviceMaximumQueueDepthExceeded');
  assert.equal(await queued(full), 50);
  assert.equal(await queued(device), 0);
  await devices.delete(full.deviceId);
  const { responseBody: again } = await devices.create({ deviceId: full.deviceId });
  assert.equal(again.cloudToDeviceMessageCount, 0);

  // Expired messages are not delivered.
  const late = await createDevice('c2d');
  await sendToDevice(late, 'short-lived', {
    'iothub-expiry': new Date(Date.now() + 500).toISOString(), 'iothub-messageid': 'late', 'iothub-ack': 'negative' });
  await sendToDevice(late, 'lasting', { 'iothub-messageid': 'in time', 'iothub-ack': 'negative' });
  await eventually('the message to expire', async () => await queued(late) === 1);
  const kept = await listen(clientFor(late));
  await eventually('the other message', () => kept.length);
  assert.deepEqual(kept.map((m) => m.getData().toString()), ['lasting']);
  assert.deepEqual(await feedbackOf(late, 1), [['late', 'Expired']]);

  // Refusals.
  await refusal(await sendToDevice({ deviceId: unique('absent') }, 'x'), 404, 'DeviceNotFound');
  await refusal(await sendToDevice(device, 'x', { 'iothub-expiry': new Date(Date.now() - 60_000).toISOString() }), 403, 'InvalidMessageExpiryTime');
  assert.equal((await sendToDevice(device, Buffer.alloc(66_000))).status, 413);
  assert.equal((await sendToDevice(device, 'x', { 'iothub-ack': 'perhaps' })).status, 400);
  assert.equal(await queued(device), 0);

  // A disabled device keeps its queue.
  await sendToDevice(device, 'waiting');
  await devices.update({ ...device, status: 'disabled' });
  assert.equal((await sendToDevice(device, 'waiting too')).status, 204);
  await devices.update({ ...device, status: 'enabled' });
  const back = await listen(clientFor(device));
  await eventually('both messages', () => back.length === 2);
});
