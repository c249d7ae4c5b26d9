// feature: Feedback and file notifications
// transports: amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { Client: DeviceClient } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Message } = require('azure-iot-common');
const { connectionString, createDevice, eventually, promised, rest, run, tracked, within, withServiceConnection } = require('./support');

run(() => withServiceConnection(check));

async function check(client) {
  // Feedback comes while a back end listens, whatever became of the message.
  const records = [];
  const feedback = await within('a receiver', promised((done) => client.getFeedbackReceiver(done)));
  feedback.on('message', (batch) => {
    records.push(...JSON.parse(batch.getData().toString()));
    feedback.complete(batch, () => {});
  });
  const device = await createDevice('feedback');
  const receiver = tracked(DeviceClient.fromConnectionString(connectionString(device), Mqtt));
  receiver.on('message', (message) => receiver.complete(message, () => {}));
  await within('a connection', receiver.open());
  const send = (id, to) => {
    const message = new Message('hello');
    Object.assign(message, { messageId: id, ack: 'full' });
    return within('an outcome', client.send(to.deviceId, message));
  };
  await send('completed', device);
  const away = await createDevice('feedback');
  await send('purged', away);
  await rest('DELETE', `/devices/${away.deviceId}/commands`);
  const known = () => records.filter(({ deviceId }) => [device.deviceId, away.deviceId].includes(deviceId));
  await eventually('two records', () => known().length === 2);
  assert.deepEqual(known().map((record) => [record.originalMessageId, record.statusCode]).sort(), [['completed', 'Success'], ['purged', 'Purged']]);

  // So do notifications of files.
  const files = [];
  const notifications = await within('a receiver', promised((done) => client.getFileNotificationReceiver(done)));
  notifications.on('message', (notification) => {
    files.push(JSON.parse(notification.getData().toString()));
    notifications.complete(notification, () => {});
  });
  await within('an upload', receiver.uploadToBlob('log.txt', require('node:stream').Readable.from(['some text']), 9));
  await eventually('a notification', () => files.some(({ deviceId }) => deviceId === device.deviceId));
  const file = files.find(({ deviceId }) => deviceId === device.deviceId);
  assert.equal(file.blobName, `${device.deviceId}/log.txt`);
  assert.equal(file.blobSizeInBytes, 9);
}
