// feature: Sending messages to devices
// transports: amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const service = require('azure-iothub');
const { Client: DeviceClient } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Message } = require('azure-iot-common');
const { SERVICE, connectionString, createDevice, eventually, registry, rejects, rest, run, serviceProtocol, tracked, within, withServiceConnection } = require('./support');

// The service's client sends over AMQP; the devices are connected over MQTT.
run(() => withServiceConnection(check));

async function check(client) {
  const queued = async ({ deviceId }) => (await registry().get(deviceId)).responseBody.cloudToDeviceMessageCount;

  // A message with everything that it can have, and a bare one.
  const device = await createDevice('c2ds');
  const receiver = tracked(DeviceClient.fromConnectionString(connectionString(device), Mqtt));
  const received = [];
  receiver.on('message', (message) => {
    received.push(message);
    receiver.complete(message, () => {});
  });
  await within('a connection', receiver.open());
  const message = new Message('{"a":"grün"}');
  Object.assign(message, {
    messageId: 'id-1', correlationId: 'correlation/1', userId: 'me', contentType: 'application/json', contentEncoding: 'utf-8', ack: 'full',
    expiryTimeUtc: Date.now() + 60_000,
  });
  message.properties.add('plain', 'value');
  message.properties.add('signs', "a b&c=d/e#f+g%h?'$");
  await within('an outcome', client.send(device.deviceId, message));
  await within('an outcome', client.send(device.deviceId, 'bare'));
  await eventually('two messages', () => received.length === 2);
  assert.deepEqual(received.map((m) => m.getData().toString()), ['{"a":"grün"}', 'bare']);
  const [full] = received;
  assert.equal(full.messageId, 'id-1');
  assert.equal(full.correlationId, 'correlation/1');
  assert.equal(full.contentType, 'application/json');
  assert.equal(full.contentEncoding, 'utf-8');
  assert.ok(Math.abs(Date.parse(full.expiryTimeUtc) - message.expiryTimeUtc) < 1000, full.expiryTimeUtc);
  const own = Object.fromEntries(full.properties.propertyList.map(({ key, value }) => [key, value]));
  assert.equal(own.plain, 'value');
  assert.equal(own.signs, "a b&c=d/e#f+g%h?'$");

  // Many at once, to a device that is away.
  const away = await createDevice('c2ds');
  await within('all outcomes', Promise.all(Array.from({ length: 50 }, (_, i) => client.send(away.deviceId, String(i)))));
  assert.equal(await queued(away), 50);

  // What cannot be queued is refused by its own error, and the connection stays.
  await rejects(client.send(away.deviceId, '51'), { name: 'DeviceMaximumQueueDepthExceededError' });
  await rejects(client.send('nobody-at-all', 'hello'), { name: 'DeviceNotFoundError' });
  await within('an outcome', client.send(device.deviceId, 'still here'));
  await eventually('a message', () => received.length === 3);
  await rest('DELETE', `/devices/${away.deviceId}/commands`);

  // A wrong key is refused.
  const wrong = SERVICE.replace(/SharedAccessKey=.*/, 'SharedAccessKey=d3Jvbmcga2V5IHdyb25nIGtleSE=');
  const stranger = service.Client.fromConnectionString(wrong, serviceProtocol());
  const error = await rejects(stranger.open(), { name: 'Error' });
  assert.equal(error.amqpError.name, 'UnauthorizedError');
}
