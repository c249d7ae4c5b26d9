// feature: The tutorial: scheduled jobs
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { clientFor, createDevice, eventually, jobClient, registry, run, unique } = require('./support');

/** The simulated device: answers lockDoor and watches its desired properties. */
async function simulatedDevice(identity) {
  const seen = { methods: [], desired: [] };
  const client = clientFor(identity, { retry: true });
  client.onDeviceMethod('lockDoor', (request, response) => {
    seen.methods.push({ name: request.methodName, payload: request.payload });
    response.send(200, { Response: `${request.methodName} called successfully` }, () => {});
  });
  await client.open();
  const twin = await client.getTwin();
  twin.on('properties.desired', (patch) => { if (patch.building) seen.desired.push({ building: patch.building, floor: patch.floor }); });
  return seen;
}

/** The back end: schedules both jobs a little ahead and watches them until they end. */
async function backEnd(deviceId) {
  const jobs = jobClient();
  const condition = `deviceId IN ['${deviceId}']`;
  const start = new Date(Date.now() + 1000);
  const methodJob = unique('lock');
  const twinJob = unique('move');
  const method = { methodName: 'lockDoor', payload: { lockTime: '10m' }, responseTimeoutInSeconds: 15 };
  const patch = { etag: '*', properties: { desired: { building: '43', floor: 3 } } };
  for (const { jobStatus } of [
    await jobs.scheduleDeviceMethod(methodJob, condition, method, start, 300),
    await jobs.scheduleTwinUpdate(twinJob, condition, patch, start, 300),
  ]) assert.equal(jobStatus.status, 'queued');
  const ended = (id) => eventually(`job ${id}`, async () => {
    const { jobStatus } = await jobs.getJob(id);
    if (!['completed', 'failed', 'cancelled'].includes(jobStatus.status)) return false;
    assert.ok(Date.now() >= start.getTime() - 50, 'not before its time');
    return jobStatus;
  });
  return [await ended(methodJob), await ended(twinJob)];
}

run(async () => {
  const device = await createDevice('tutorial');
  const seen = await simulatedDevice(device);
  const [methodJob, twinJob] = await backEnd(device.deviceId);
  for (const job of [methodJob, twinJob]) {
    assert.equal(job.status, 'completed');
    assert.deepEqual(job.deviceJobStatistics, { deviceCount: 1, failedCount: 0, succeededCount: 1, runningCount: 0, pendingCount: 0 });
  }
  assert.deepEqual(seen.methods, [{ name: 'lockDoor', payload: { lockTime: '10m' } }]);
  await eventually('the desired properties', () => seen.desired.length);
  assert.deepEqual(seen.desired, [{ building: '43', floor: 3 }]);
  const rows = (await registry().createQuery(`SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '${methodJob.jobId}'`).next()).result;
  assert.deepEqual(rows[0].outcome.deviceMethodResponse, { status: 200, payload: { Response: 'lockDoor called successfully' } });
});
