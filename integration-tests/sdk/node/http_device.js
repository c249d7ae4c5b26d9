// feature: Devices over HTTP
// transports: http
'use strict';

const assert = require('node:assert/strict');
const {
  Message, clientFor, connect, createDevice, eventually, feedbackOf, promised, registry, rejects, run, sendToDevice, telemetryOf, unique, within,
} = require('./support');

run(async () => {
  const devices = registry();
  const device = await createDevice('http');
  const client = await connect(device);
  const send = (message) => within('an answer', client.sendEvent(message));

  // Telemetry with every system property. Header names have no case, so names of application properties come in lower case.
  const message = new Message(JSON.stringify({ text: 'grün' }));
  Object.assign(message, {
    messageId: 'id-1', correlationId: 'correlation &=?', userId: 'user', contentType: 'application/json', contentEncoding: 'utf-8' });
  const properties = { plain: 'value', "odd!#$%&'*+-.^_`|~": 'a b&c=d/e', dashed: '--', empty: '' };
  for (const [key, value] of Object.entries(properties)) message.properties.add(key, value);
  message.properties.add('UpperCase', 'Value');
  message.properties.add('dt-subject', 'part');
  await send(message);
  const [first] = await telemetryOf(device, 1);
  assert.equal(first.body, message.data);
  assert.deepEqual(first.properties, { ...properties, uppercase: 'Value' });
  assert.deepEqual(
    ['$.mid', '$.cid', '$.uid', '$.ct', '$.ce', '$.sub'].map((name) => first.systemProperties[name]),
    ['id-1', 'correlation &=?', 'user', 'application/json', 'utf-8', 'part']);

  // Bodies: none, and large ones.
  for (const size of [0, 1, 65_024, 250_000]) await send(new Message(Buffer.alloc(size, 'x')));
  assert.deepEqual((await telemetryOf(device, 5)).slice(1).map((kept) => kept.body.length), [0, 1, 65_024, 250_000]);
  await rejects(send(new Message(Buffer.alloc(300_000))), { name: 'MessageTooLargeError', status: 413, code: 'MessageTooLarge' });

  // A batch: each message with its own properties.
  const batch = ['b1', 'b2', Buffer.from('b3')].map((body, i) => {
    const part = new Message(body);
    part.properties.add('number', String(i));
    return part;
  });
  batch.push(new Message('without properties'));
  await within('an answer', client.sendEventBatch(batch));
  const kept = (await telemetryOf(device, 9)).slice(5);
  assert.deepEqual(kept.map((m) => [m.body, m.properties]), [
    ['b1', { number: '0' }], ['b2', { number: '1' }], ['b3', { number: '2' }], ['without properties', {}]]);

  // Messages to the device: it polls, holds what it got, and says what is to become of it.
  const queued = async () => (await devices.get(device.deviceId)).responseBody.cloudToDeviceMessageCount;
  await client.setTransportOptions({ interval: 1, at: null, cron: null, drain: true });
  const received = [];
  const post = async (...message) => assert.equal((await sendToDevice(device, ...message)).status, 204);
  await post('first', { 'iothub-messageid': 'm1', 'iothub-correlationid': 'c1', 'iothub-ack': 'full', 'iothub-app-k': 'v w' });
  await post('second', { 'iothub-messageid': 'm2', 'iothub-ack': 'full' });
  client.on('message', (m) => received.push(m));
  await eventually('two messages', () => received.length === 2);
  const [one, two] = received;
  assert.deepEqual([one, two].map((m) => m.getData().toString()), ['first', 'second']);
  assert.equal(one.messageId, 'm1');
  assert.equal(one.correlationId, 'c1');
  assert.equal(one.to, `/devices/${device.deviceId}/messages/devicebound`);
  assert.equal(one.properties.getValue('iothub-app-k'), 'v w');
  assert.notEqual(one.lockToken, two.lockToken);
  assert.equal(await queued(), 2, 'held messages are still in the queue');
  const settle = (how, m) => within('an answer', promised((done) => client[how](m, done)));
  await settle('complete', one);
  assert.equal(await queued(), 1);
  await settle('abandon', two);
  await eventually('the abandoned message again', () => received.length === 3);
  assert.equal(received[2].getData().toString(), 'second');
  assert.notEqual(received[2].lockToken, two.lockToken);
  await rejects(settle('complete', two), { status: 412, code: 'DeviceMessageLockLost' });
  await rejects(settle('complete', one), { status: 412, code: 'DeviceMessageLockLost' });
  await settle('reject', received[2]);
  assert.equal(await queued(), 0);
  assert.deepEqual(await feedbackOf(device, 2), [['m1', 'Success'], ['m2', 'Rejected']]);

  // Nothing here makes the device connected, and there is neither a twin nor a method.
  assert.equal((await devices.get(device.deviceId)).responseBody.connectionState, 'Disconnected');

  // Refusals.
  const refused = { name: 'UnauthorizedError', status: 401 };
  await rejects(clientFor(device, { key: Buffer.alloc(32, 1).toString('base64') }).sendEvent(new Message('x')), refused);
  await rejects(clientFor({ ...device, deviceId: unique('absent') }).sendEvent(new Message('x')), refused);
  await devices.update({ ...device, status: 'disabled' });
  await rejects(send(new Message('x')), refused);
  assert.equal((await telemetryOf(device, 9)).length, 9);
});
