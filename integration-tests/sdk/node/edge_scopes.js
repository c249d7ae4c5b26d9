// feature: Edge devices and scopes
// transports: rest
'use strict';

const assert = require('node:assert/strict');
const { createDevice, registry, rejects, run, unique } = require('./support');

run(async () => {
  const devices = registry();
  const edge = await createDevice('edge', { capabilities: { iotEdge: true } });
  assert.equal(edge.capabilities.iotEdge, true);
  assert.match(edge.deviceScope, new RegExp(`^ms-azure-iot-edge://${edge.deviceId}-\\d+$`));

  // The two modules of the runtime come with it, and belong to it.
  const { responseBody: modules } = await devices.getModulesOnDevice(edge.deviceId);
  assert.deepEqual(modules.map((module) => module.moduleId).sort(), ['$edgeAgent', '$edgeHub']);
  assert.ok(modules.every((module) => /^iotedge$/i.test(module.managedBy)));
  assert.equal((await devices.getModule(edge.deviceId, '$edgeAgent')).responseBody.moduleId, '$edgeAgent');
  assert.equal((await devices.getModuleTwin(edge.deviceId, '$edgeHub')).responseBody.moduleId, '$edgeHub');

  // A leaf below it, and an edge below it.
  const leaf = await createDevice('leaf', { deviceScope: edge.deviceScope });
  assert.equal(leaf.deviceScope, edge.deviceScope);
  assert.deepEqual(leaf.parentScopes, [edge.deviceScope]);
  const nested = await createDevice('nested', { capabilities: { iotEdge: true }, parentScopes: [edge.deviceScope] });
  assert.notEqual(nested.deviceScope, edge.deviceScope);
  assert.match(nested.deviceScope, new RegExp(`^ms-azure-iot-edge://${nested.deviceId}-`));
  assert.deepEqual(nested.parentScopes, [edge.deviceScope]);
  const alone = await createDevice('alone');
  assert.ok(!alone.deviceScope);

  // A leaf may move between parents; a scope that no edge has is refused.
  const { responseBody: moved } = await devices.update({ ...leaf, deviceScope: nested.deviceScope, parentScopes: undefined });
  assert.equal(moved.deviceScope, nested.deviceScope);
  assert.deepEqual(moved.parentScopes, [nested.deviceScope]);
  await rejects(devices.update({ ...leaf, deviceScope: `ms-azure-iot-edge://${unique('nowhere')}-1` }), { name: 'ArgumentError', status: 400 });
  assert.equal((await devices.get(leaf.deviceId)).responseBody.deviceScope, nested.deviceScope);

  // The twin tells the same.
  const { responseBody: twin } = await devices.getTwin(edge.deviceId);
  assert.equal(twin.capabilities.iotEdge, true);
  assert.equal(twin.deviceScope, edge.deviceScope);

  // The scope of an edge is its own for as long as it exists.
  const { responseBody: same } = await devices.update({ ...edge, deviceScope: 'ms-azure-iot-edge://other-1' });
  assert.equal(same.deviceScope, edge.deviceScope);
});
