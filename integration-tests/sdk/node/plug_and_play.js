// feature: Plug and Play
// transports: mqtt, mqtt-ws
'use strict';

const assert = require('node:assert/strict');
const {
  Message, clientFor, close, createDevice, digitalTwins, eventually, registry, rejects, report, run, telemetryOf, unique, watchDesired, within,
} = require('./support');

const MODEL = 'dtmi:com:example:Thermostat;1';

run(async () => {
  const devices = registry();
  const twins = digitalTwins();
  const device = await createDevice('pnp');
  const { deviceId } = device;

  // A device without a model, and then with one.
  assert.ok(!(await devices.getTwin(deviceId)).responseBody.modelId);
  const client = clientFor(device);
  await within('options', client.setOptions({ modelId: MODEL }));
  await within('a connection', client.open());
  await eventually('the model id', async () => (await devices.getTwin(deviceId)).responseBody.modelId === MODEL);
  const found = await devices.createQuery(`SELECT deviceId FROM devices WHERE modelId = '${MODEL}' AND deviceId = '${deviceId}'`).next();
  assert.equal(found.result.length, 1);

  // The digital twin: properties at the root, components marked with __t, the model in $metadata.
  const { twin, patches } = await watchDesired(client);
  await report(twin, { temperature: 21.5, thermostat1: { __t: 'c', maxTemp: 30 } });
  const digital = await twins.getDigitalTwin(deviceId);
  assert.equal(digital._response.status, 200);
  assert.equal(digital.$dtId, deviceId);
  assert.equal(digital.$metadata.$model, MODEL);
  assert.equal(digital.temperature, 21.5);
  assert.equal(digital.thermostat1.maxTemp, 30);
  assert.ok(digital.thermostat1.$metadata, 'a component has metadata of its own');
  assert.match(digital._response.parsedHeaders.eTag ?? digital._response.parsedHeaders.etag, /./);

  // Patches become desired properties.
  const patched = await twins.updateDigitalTwin(deviceId, [{ op: 'add', path: '/targetTemperature', value: 42 }]);
  assert.equal((patched?._response ?? { status: 202 }).status, 202);
  await eventually('a notification', () => patches.length);
  assert.equal(patches[0].targetTemperature, 42);
  assert.equal((await devices.getTwin(deviceId)).responseBody.properties.desired.targetTemperature, 42);
  await twins.updateDigitalTwin(deviceId, [{ op: 'replace', path: '/targetTemperature', value: 43 }]);
  await twins.updateDigitalTwin(deviceId, [{ op: 'add', path: '/thermostat1', value: { targetTemperature: 25, $metadata: {} } }]);
  const { responseBody: written } = await devices.getTwin(deviceId);
  assert.equal(written.properties.desired.targetTemperature, 43);
  assert.equal(written.properties.desired.thermostat1.targetTemperature, 25);
  assert.equal(written.properties.desired.thermostat1.__t, 'c');
  await twins.updateDigitalTwin(deviceId, [{ op: 'remove', path: '/targetTemperature' }]);
  assert.ok(!('targetTemperature' in (await devices.getTwin(deviceId)).responseBody.properties.desired));
  await rejects(twins.updateDigitalTwin(deviceId, [{ op: 'add', path: '/x', value: 1 }], '"AAAA"'), { status: 412 });
  await rejects(twins.updateDigitalTwin(deviceId, [{ op: 'jump', path: '/x', value: 1 }]), { status: 400 });

  // Commands are direct methods, of a component with its name in front.
  client.onDeviceMethod('reboot', (request, response) => response.send(200, { rebooted: request.payload }, () => {}));
  client.onDeviceMethod('thermostat1*getMaxMinReport', (request, response) => response.send(201, { since: request.payload }, () => {}));
  const wait = { connectTimeoutInSeconds: 10, responseTimeoutInSeconds: 10 };
  const root = await twins.invokeCommand(deviceId, 'reboot', { delay: 3 }, wait);
  assert.equal(root._response.parsedHeaders.xMsCommandStatuscode, 200);
  assert.deepEqual(JSON.parse(root._response.bodyAsText), { rebooted: { delay: 3 } });
  const component = await twins.invokeComponentCommand(deviceId, 'thermostat1', 'getMaxMinReport', 'yesterday', wait);
  assert.equal(component._response.parsedHeaders.xMsCommandStatuscode, 201);
  assert.deepEqual(JSON.parse(component._response.bodyAsText), { since: 'yesterday' });
  await rejects(twins.invokeCommand(deviceId, 'reboot', 1, { responseTimeoutInSeconds: 1 }), { status: 400 });
  await rejects(twins.getDigitalTwin(unique('absent')), { status: 404 });
  await rejects(twins.updateDigitalTwin(unique('absent'), [{ op: 'add', path: '/x', value: 1 }]), { status: 404 });

  // Telemetry of a component names it.
  const message = new Message('{"temperature":20}');
  message.properties.add('dt-subject', 'thermostat1');
  await within('an acknowledgement', client.sendEvent(message));
  assert.equal((await telemetryOf(device, 1))[0].systemProperties['$.sub'], 'thermostat1');

  await close(client);
  await rejects(twins.invokeCommand(deviceId, 'reboot', 1), { status: 404 });
  assert.equal((await devices.getTwin(deviceId)).responseBody.modelId, MODEL, 'the model stays known');
});
