// feature: Changes to identities of connected devices
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { Message, clientFor, close, connect, createDevice, registry, rejects, run, serviceClient, telemetryOf, watchDesired, within } = require('./support');

const refused = { name: 'UnauthorizedError' };

/** A promise of the end of a client's connection. */
function disconnected(client) {
  return within('the hub to end the connection', new Promise((resolve) => client.once('disconnect', resolve)));
}

run(async () => {
  const devices = registry();
  const back = serviceClient();

  // Disabling a device ends its connection and that of its modules, and keeps them out until it is enabled again.
  const device = await createDevice('changes');
  const { deviceId } = device;
  const { responseBody: module } = await devices.addModule({ deviceId, moduleId: 'm' });
  const bystander = await connect(await createDevice('changes'));
  let disturbed = false;
  bystander.on('disconnect', () => { disturbed = true; });
  const client = await connect(device);
  const moduleClient = await connect(module);
  const both = Promise.all([disconnected(client), disconnected(moduleClient)]);
  await devices.update({ ...device, status: 'disabled' });
  await both;
  await rejects(clientFor(device).open(), refused);
  await rejects(clientFor(module).open(), refused);
  assert.equal((await devices.get(deviceId)).responseBody.connectionState, 'Disconnected');
  const { responseBody: twin } = await devices.updateTwin(deviceId, { properties: { desired: { kept: 1 } } }, '*');
  assert.equal(twin.status, 'disabled', 'the back end still reads and writes its twin');
  await rejects(back.invokeDeviceMethod(deviceId, { methodName: 'x' }), { status: 404 });
  await devices.update({ ...device, status: 'enabled' });
  const again = await connect(device);
  assert.equal((await watchDesired(again)).twin.properties.desired.kept, 1);
  await close(again);

  // Rolling keys: who is connected stays; who comes with an old key is refused.
  const rolling = await createDevice('changes');
  const connected = await connect(rolling);
  await within('an acknowledgement', connected.sendEvent(new Message('here')));
  const { responseBody: rolled } = await devices.update({ deviceId: rolling.deviceId });
  assert.notEqual(rolled.authentication.symmetricKey.primaryKey, rolling.authentication.symmetricKey.primaryKey);
  await within('an acknowledgement', connected.sendEvent(new Message('still here')));
  assert.deepEqual((await telemetryOf(rolling, 2)).map((message) => message.body), ['here', 'still here']);
  await close(connected);
  await rejects(clientFor(rolling).open(), refused);
  await close(await connect(rolled));

  // A rotation in two steps never locks the device out: one key changes while the other is in use.
  const { primaryKey, secondaryKey } = rolled.authentication.symmetricKey;
  const fresh = Buffer.alloc(32, 5).toString('base64');
  await devices.update({ ...rolled, authentication: { type: 'sas', symmetricKey: { primaryKey: fresh, secondaryKey } } });
  await rejects(clientFor(rolled, { key: primaryKey }).open(), refused);
  await close(await connect(rolled, { key: secondaryKey }));
  await close(await connect(rolled, { key: fresh }));

  // Keys for a device that is to use a certificate are of no use any more.
  await devices.update({ deviceId: rolled.deviceId, authentication: { type: 'certificateAuthority' } });
  await rejects(clientFor(rolled, { key: fresh }).open(), refused);

  // Deleting ends the connection, and the same id again is another device.
  const doomed = await createDevice('changes');
  const last = await connect(doomed);
  await devices.updateTwin(doomed.deviceId, { tags: { old: true } }, '*');
  const end = disconnected(last);
  await devices.delete(doomed.deviceId);
  await end;
  await rejects(clientFor(doomed).open(), refused);
  const { responseBody: reborn } = await devices.create({ deviceId: doomed.deviceId });
  await rejects(clientFor(doomed).open(), refused);
  await close(await connect(reborn));
  assert.deepEqual((await devices.getTwin(doomed.deviceId)).responseBody.tags, {});

  // Deleting a module ends the module's connection only.
  const host = await createDevice('changes');
  const { responseBody: guest } = await devices.addModule({ deviceId: host.deviceId, moduleId: 'guest' });
  const hostClient = await connect(host);
  const guestClient = await connect(guest);
  const guestEnd = disconnected(guestClient);
  await devices.removeModule(host.deviceId, 'guest');
  await guestEnd;
  await within('an acknowledgement', hostClient.sendEvent(new Message('still here')));
  await rejects(clientFor(guest).open(), refused);
  assert.equal(disturbed, false);
});
