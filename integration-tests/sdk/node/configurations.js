// feature: Automatic device configurations
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { connect, createDevice, eventually, registry, rejects, rest, run, unique, watchDesired } = require('./support');

run(async () => {
  const devices = registry();
  const mark = unique('c');
  const desired = async ({ deviceId }) => (await devices.getTwin(deviceId)).responseBody.properties.desired;
  const tag = ({ deviceId }, tags) => devices.updateTwin(deviceId, { tags }, '*');
  const get = async (id) => (await devices.getConfiguration(id)).responseBody;

  const inside = await createDevice('configurations');
  const outside = await createDevice('configurations');
  await tag(inside, { mark });
  const { patches } = await watchDesired(await connect(inside));

  // Creating one.
  const low = {
    id: unique('low'), labels: { k: 'v' }, content: { deviceContent: { 'properties.desired.cooler': { temperature: 66, mode: 'low' }, 'properties.desired.only': 1 } },
    targetCondition: `tags.mark = '${mark}'`, priority: 1,
    metrics: { queries: { cool: `SELECT deviceId FROM devices WHERE tags.mark = '${mark}' AND properties.reported.cool = true` } },
  };
  const { responseBody: created } = await devices.addConfiguration(low);
  assert.equal(created.id, low.id);
  assert.match(created.etag, /./);
  assert.equal(created.schemaVersion, '1.0');
  assert.equal(created.priority, 1);
  assert.deepEqual(created.labels, low.labels);
  assert.deepEqual(created.content, low.content);
  assert.match(created.createdTimeUtc, /^20/);
  assert.match(created.lastUpdatedTimeUtc, /^20/);
  assert.equal((await get(low.id)).etag, created.etag);
  assert.ok((await devices.getConfigurations()).responseBody.some((configuration) => configuration.id === low.id));

  // It reaches the devices that it targets, and only those, and tells them.
  await eventually('the configuration to be applied', async () => (await desired(inside)).cooler?.temperature === 66);
  await eventually('a notification', () => patches.length);
  assert.deepEqual(patches[0].cooler, { temperature: 66, mode: 'low' });
  assert.equal((await desired(inside)).only, 1);
  assert.ok(!('cooler' in await desired(outside)));
  const counted = await eventually('the counts', async () => {
    const { systemMetrics } = await get(low.id);
    return systemMetrics.results.appliedCount === 1 && systemMetrics;
  });
  assert.equal(counted.results.targetedCount, 1);
  assert.equal((await get(low.id)).metrics.results.cool, 0);
  const found = await devices.createQuery(`SELECT deviceId FROM devices WHERE configurations.[[${low.id}]].status = 'Applied'`).next();
  assert.deepEqual(found.result, [{ deviceId: inside.deviceId }]);

  // A device that comes to be targeted later.
  await tag(outside, { mark });
  await eventually('the second device', async () => (await desired(outside)).cooler?.temperature === 66);

  // The higher priority wins, path by path; without it the lower one is back.
  const high = {
    id: unique('high'), content: { deviceContent: { 'properties.desired.cooler': { temperature: 80, mode: 'high' } } },
    targetCondition: `deviceId = '${inside.deviceId}'`, priority: 10 };
  await devices.addConfiguration(high);
  await eventually('the higher priority', async () => (await desired(inside)).cooler.temperature === 80);
  assert.equal((await desired(inside)).only, 1);
  assert.equal((await desired(outside)).cooler.temperature, 66);
  await devices.removeConfiguration(high.id);
  await eventually('the lower priority', async () => (await desired(inside)).cooler.temperature === 66);

  // Updates, with ETags; the content never changes.
  const { responseBody: updated } = await devices.updateConfiguration({
    ...created, priority: 5, labels: { k: 'w' }, targetCondition: `deviceId = '${outside.deviceId}'` });
  assert.notEqual(updated.etag, created.etag);
  assert.equal(updated.priority, 5);
  assert.deepEqual(updated.labels, { k: 'w' });
  await eventually('the device that is targeted no more', async () => !('cooler' in await desired(inside)));
  assert.ok(!('only' in await desired(inside)));
  assert.equal((await desired(outside)).cooler.temperature, 66);
  await rejects(devices.updateConfiguration({ ...created, priority: 7 }), { name: 'InvalidEtagError', status: 412, code: 'PreconditionFailed' });
  const { responseBody: forced } = await devices.updateConfiguration(
    { ...created, priority: 7, content: { deviceContent: { 'properties.desired.other': 1 } } }, true);
  assert.equal(forced.priority, 7);
  assert.deepEqual(forced.content, low.content);

  // Trying queries out.
  const test = await rest('POST', '/configurations/testQueries', {
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ targetCondition: 'tags.a = ', customMetricQueries: { good: 'SELECT deviceId FROM devices', bad: 'SELECT' } }) });
  assert.equal(test.status, 200, test.text);
  const { targetConditionError, customMetricQueryErrors } = JSON.parse(test.text);
  assert.match(targetConditionError, /./);
  assert.match(customMetricQueryErrors.bad, /./);

  // Refusals.
  await rejects(devices.addConfiguration(low), { name: 'DeviceAlreadyExistsError', status: 409, code: 'ConfigurationAlreadyExists' });
  const invalid = { name: 'ArgumentError', status: 400 };
  const make = (more) => devices.addConfiguration({ ...low, id: unique('bad'), ...more });
  await rejects(make({ id: 'UPPER' }), invalid);
  await rejects(make({ targetCondition: 'tags.a = ' }), invalid);
  await rejects(make({ content: {} }), invalid);
  await rejects(make({ content: { deviceContent: { 'tags.a': 1 } } }), invalid);
  await rejects(make({ content: { ...low.content, moduleContent: { 'properties.desired.a': 1 } } }), invalid);
  await rejects(make({ metrics: { queries: { bad: 'SELECT' } } }), invalid);
  const absent = { status: 404, code: 'ConfigurationNotFound' };
  await rejects(devices.getConfiguration(unique('absent')), absent);
  await rejects(devices.removeConfiguration(unique('absent')), absent);

  // Removal takes its settings away.
  assert.equal((await devices.removeConfiguration(low.id)).httpResponse.statusCode, 204);
  await eventually('the settings to go', async () => !('cooler' in await desired(outside)));
  await rejects(devices.getConfiguration(low.id), absent);

  // Edge: content for its modules, once.
  const edge = await createDevice('configurations', { capabilities: { iotEdge: true } });
  const modulesContent = {
    $edgeAgent: { 'properties.desired': { schemaVersion: '1.0', runtime: {}, systemModules: {}, modules: {} } },
    $edgeHub: { 'properties.desired': { schemaVersion: '1.0', routes: {} } } };
  const applied = await devices.applyConfigurationContentOnDevice(edge.deviceId, { modulesContent });
  assert.equal(applied.httpResponse.statusCode, 204);
  assert.equal((await devices.getModuleTwin(edge.deviceId, '$edgeAgent')).responseBody.properties.desired.schemaVersion, '1.0');
  await rejects(devices.applyConfigurationContentOnDevice(inside.deviceId, { modulesContent }), invalid);
});
