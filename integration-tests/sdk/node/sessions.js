// feature: Sessions
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const {
  HOST, Message, OVER_AMQP, clientFor, close, connect, createDevice, eventually, registry, rejects, run, serviceClient, telemetryOf, watchDesired, within,
} = require('./support');
const { openRelay } = require('./relay');

run(async () => {
  const devices = registry();
  const back = serviceClient();
  const call = async ({ deviceId }, payload, more) => (await back.invokeDeviceMethod(deviceId, {
    methodName: 'echo', payload, responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 10, ...more })).result.payload;
  const answer = (client, text) => client.onDeviceMethod('echo', (request, response) =>
    response.send(200, `${text} ${request.payload}`, () => {}));
  const disconnected = (client) => within('the end of a connection', new Promise((resolve) => client.once('disconnect', resolve)));

  // A second connection of a device ends the first, and takes over what is sent to the device.
  const taken = await createDevice('sessions');
  const first = await connect(taken);
  answer(first, 'first');
  assert.equal(await call(taken, 1), 'first 1');
  const end = disconnected(first);
  const second = await connect(taken);
  await end;
  answer(second, 'second');
  assert.equal(await call(taken, 2), 'second 2');
  assert.equal((await devices.get(taken.deviceId)).responseBody.connectionState, 'Connected');
  await within('an acknowledgement', second.sendEvent(new Message('from the second')));
  assert.equal((await telemetryOf(taken, 1))[0].body, 'from the second');

  // A call that was waiting for the first one's answer is told.
  second.onDeviceMethod('hold', () => {});
  const held = rejects(back.invokeDeviceMethod(taken.deviceId, { methodName: 'hold' }), { status: 400, code: 'ConnectionForcefullyClosedOnNewConnection' });
  await call(taken, 'the call before has arrived');
  const third = await connect(taken);
  await held;
  await close(third);

  // Modules and their device do not take each other over.
  const host = await createDevice('sessions');
  const { responseBody: module } = await devices.addModule({ deviceId: host.deviceId, moduleId: 'm' });
  const hostClient = await connect(host);
  const moduleClient = await connect(module);
  await within('an acknowledgement', hostClient.sendEvent(new Message('device')));
  await within('an acknowledgement', moduleClient.sendEvent(new Message('module')));

  // The hub remembers a device's subscriptions while it is away: a client that subscribed to nothing is called all the same (and does
  // not answer, which is another error than a device that does not listen). Links over AMQP are not remembered.
  const remembered = await createDevice('sessions');
  const before = await connect(remembered);
  answer(before, 'before');
  assert.equal(await call(remembered, 1), 'before 1');
  await close(before);
  await rejects(call(remembered, 2, { connectTimeoutInSeconds: 0 }), { status: 404, code: 'DeviceNotOnline' });
  await connect(remembered);
  const unanswered = rejects(call(remembered, 3, { responseTimeoutInSeconds: 5, connectTimeoutInSeconds: 0 }), OVER_AMQP
    ? { status: 404, code: 'DeviceNotOnline' }
    : { name: 'GatewayTimeoutError', status: 504, code: 'GatewayTimeout' });

  // A connection that breaks: the SDK comes back by itself, and methods, notifications and telemetry go on.
  const port = { mqtt: 8883, amqp: 5671 }[process.env.TRANSPORT] ?? 443;
  const relay = await openRelay(port);
  Object.assign(process.env, { IOTHUB_PORTS: `${port}:${relay.port}`, IOTHUB_HOSTS: HOST });
  require('../../../emulator/assets/iothub-ports');
  const broken = await createDevice('sessions');
  const client = clientFor(broken, { retry: true });
  await within('a connection', client.open());
  answer(client, 'back');
  assert.equal(await call(broken, 0), 'back 0');
  const { twin, patches } = await watchDesired(client);
  for (let round = 1; round <= 2; round += 1) {
    const accepted = relay.accepted;
    relay.cut();
    await eventually('a new connection', () => relay.accepted > accepted);
    assert.equal(await call(broken, round), `back ${round}`);
    await client.getTwin();
    patches.length = 0;
    await devices.updateTwin(broken.deviceId, { properties: { desired: { round } } }, '*');
    await eventually('a notification', () => patches.length);
    assert.deepEqual([patches.length, patches[0].round, twin.properties.desired.round], [1, round, round]);
    await within('an acknowledgement', client.sendEvent(new Message(`round ${round}`)));
  }
  assert.deepEqual((await telemetryOf(broken, 2)).map((message) => message.body), ['round 1', 'round 2']);
  await unanswered;
});
