// feature: Module identities
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { close, connect, createDevice, eventually, registry, rejects, report, run, serviceClient, unique, watchDesired } = require('./support');

run(async () => {
  const devices = registry();
  const back = serviceClient();
  const { deviceId } = await createDevice('modules');
  const get = async (moduleId) => (await devices.getModule(deviceId, moduleId)).responseBody;

  // Identities.
  const { responseBody: created } = await devices.addModule({ deviceId, moduleId: 'camera', managedBy: 'me' });
  assert.equal(created.deviceId, deviceId);
  assert.equal(created.moduleId, 'camera');
  assert.equal(created.managedBy, 'me');
  assert.equal(created.connectionState, 'Disconnected');
  assert.equal(Buffer.from(created.authentication.symmetricKey.primaryKey, 'base64').length, 32);
  assert.ok(!('status' in created), 'a module has no status');
  assert.deepEqual(await get('camera'), created);
  await rejects(devices.addModule({ deviceId, moduleId: 'camera' }), { name: 'DeviceAlreadyExistsError', status: 409, code: 'ModuleAlreadyExistsOnDevice' });
  await devices.addModule({ deviceId, moduleId: 'engine' });
  const { responseBody: listed } = await devices.getModulesOnDevice(deviceId);
  assert.deepEqual(listed.map((module) => module.moduleId).sort(), ['camera', 'engine']);
  const { responseBody: updated } = await devices.updateModule({ ...created, managedBy: 'you' });
  assert.equal(updated.managedBy, 'you');
  assert.equal(updated.generationId, created.generationId);
  assert.deepEqual(updated.authentication, created.authentication);

  const noModule = { name: 'Error', status: 404, code: 'ModuleNotFound' };
  await rejects(devices.getModule(deviceId, 'absent'), noModule);
  await rejects(devices.removeModule(deviceId, 'absent'), noModule);
  await rejects(devices.updateModule({ deviceId, moduleId: 'absent' }, true), noModule);
  await rejects(devices.getModuleTwin(deviceId, 'absent'), { name: 'DeviceNotFoundError', status: 404, code: 'DeviceNotFound' });
  await rejects(devices.addModule({ deviceId, moduleId: 'not/good' }), { name: 'ArgumentError', status: 400 });
  await rejects(devices.addModule({ deviceId, moduleId: '$own' }), { name: 'ArgumentError', status: 400 });
  const absent = unique('absent');
  await rejects(devices.addModule({ deviceId: absent, moduleId: 'm' }), { name: 'DeviceNotFoundError', status: 404 });
  await rejects(devices.getModulesOnDevice(absent), { name: 'DeviceNotFoundError', status: 404 });

  // Two modules of one device, connected at once, each with its own twin and methods.
  const camera = await connect(created);
  const engine = await connect(await get('engine'));
  const eyes = await watchDesired(camera);
  const wheels = await watchDesired(engine);
  await eventually('both connected', async () =>
    (await devices.getModulesOnDevice(deviceId)).responseBody.every((module) => module.connectionState === 'Connected'));
  assert.equal((await devices.get(deviceId)).responseBody.connectionState, 'Disconnected', 'the device itself is not');
  const { responseBody: twin } = await devices.updateModuleTwin(deviceId, 'camera', { tags: { side: 'left' }, properties: { desired: { zoom: 2 } } }, '*');
  assert.equal(twin.deviceId, deviceId);
  assert.equal(twin.moduleId, 'camera');
  assert.deepEqual(twin.tags, { side: 'left' });
  await eventually('the notification', () => eyes.patches.length);
  assert.deepEqual(eyes.patches, [{ zoom: 2, $version: twin.properties.desired.$version }]);
  await report(eyes.twin, { zoom: 2, lens: { clean: true } });
  await report(eyes.twin, { lens: { clean: null } });
  const reported = (await devices.getModuleTwin(deviceId, 'camera')).responseBody.properties.reported;
  assert.equal(reported.zoom, 2);
  assert.deepEqual(reported.lens, {});
  assert.deepEqual(wheels.patches, []);
  assert.ok(!('zoom' in (await devices.getTwin(deviceId)).responseBody.properties.desired));

  const answering = (client, name) => client.onMethod('who', (request, response) =>
    response.send(200, { name, payload: request.payload }, () => {}));
  answering(camera, 'camera');
  answering(engine, 'engine');
  for (const moduleId of ['camera', 'engine']) {
    const { result } = await back.invokeDeviceMethod(deviceId, moduleId, { methodName: 'who', payload: { a: [1] }, connectTimeoutInSeconds: 10 });
    assert.deepEqual(result, { status: 200, payload: { name: moduleId, payload: { a: [1] } } });
  }
  await rejects(back.invokeDeviceMethod(deviceId, 'absent', { methodName: 'who' }), { status: 404, code: 'ModuleNotFound' });

  // Removal ends the connection, and only that one.
  const gone = new Promise((resolve) => camera.on('disconnect', resolve));
  assert.equal((await devices.removeModule(deviceId, 'camera')).httpResponse.statusCode, 204);
  await gone;
  await rejects(devices.getModule(deviceId, 'camera'), noModule);
  const { result } = await back.invokeDeviceMethod(deviceId, 'engine', { methodName: 'who' });
  assert.equal(result.payload.name, 'engine');
  await close(engine);
  await rejects(back.invokeDeviceMethod(deviceId, 'engine', { methodName: 'who' }), { status: 404, code: 'DeviceNotOnline' });
  await devices.delete(deviceId);
  await rejects(devices.getModuleTwin(deviceId, 'engine'), { name: 'DeviceNotFoundError' });
});
