// feature: Jobs
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { allPages, connect, createDevice, eventually, jobClient, registry, rejects, run, serviceClient, unique, watchDesired } = require('./support');

const FINAL = ['completed', 'failed', 'cancelled'];

run(async () => {
  const jobs = jobClient();
  const devices = registry();
  const online = await createDevice('jobs');
  const offline = await createDevice('jobs');
  const both = `deviceId IN ['${online.deviceId}', '${offline.deviceId}']`;
  const only = `deviceId = '${online.deviceId}'`;
  const now = () => new Date();
  const read = async (id) => (await jobs.getJob(id)).jobStatus;
  const final = (id) => eventually(`job ${id} to end`, async () => {
    const job = await read(id);
    return FINAL.includes(job.status) && job;
  });
  const records = async (id) =>
    (await allPages(devices.createQuery(`SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '${id}'`))).rows;

  // The SDK does not tell when a device can be called, and gives a job no connect timeout.
  const ready = (request, response) => response.send(200, () => {});
  const callable = (...target) =>
    serviceClient().invokeDeviceMethod(...target, { methodName: 'ready', connectTimeoutInSeconds: 20, responseTimeoutInSeconds: 20 });

  const client = await connect(online);
  const { patches } = await watchDesired(client);
  client.onDeviceMethod('lockDoor', (request, response) => response.send(200, { locked: request.payload }, () => {}));
  client.onDeviceMethod('fail', (request, response) => response.send(500, 'no', () => {}));
  client.onDeviceMethod('ready', ready);
  await callable(online.deviceId);

  // A twin job reaches devices whether they are connected or not, and tells those that are.
  const twinJob = unique('job');
  const update = { etag: '*', tags: { building: 43 }, properties: { desired: { floor: 3 } } };
  const { jobStatus: accepted, response } = await jobs.scheduleTwinUpdate(twinJob, both, update, now(), 60);
  assert.deepEqual([accepted.jobId, accepted.type, accepted.status], [twinJob, 'scheduleUpdateTwin', 'queued']);
  assert.equal(response.statusCode, 200);
  const updated = await final(twinJob);
  assert.equal(updated.status, 'completed');
  assert.equal(updated.queryCondition, both);
  assert.equal(updated.maxExecutionTimeInSeconds, 60);
  assert.deepEqual(updated.updateTwin, update);
  assert.deepEqual(updated.deviceJobStatistics, { deviceCount: 2, failedCount: 0, succeededCount: 2, runningCount: 0, pendingCount: 0 });
  for (const time of ['createdTime', 'startTime', 'endTime']) assert.match(updated[time], /^20\d\d-.*Z$/, time);
  await eventually('the notification', () => patches.length);
  assert.equal(patches[0].floor, 3);
  for (const { deviceId } of [online, offline]) {
    const { responseBody: twin } = await devices.getTwin(deviceId);
    assert.deepEqual(twin.tags, { building: 43 });
    assert.equal(twin.properties.desired.floor, 3);
  }
  const twinRecords = await records(twinJob);
  assert.deepEqual(twinRecords.map((record) => record.deviceId).sort(), [online.deviceId, offline.deviceId].sort());
  assert.ok(twinRecords.every((record) => record.status === 'completed' && record.jobType === 'scheduleUpdateTwin'));

  // A method job: one device answers, the other is not there.
  const methodJob = unique('job');
  const method = { methodName: 'lockDoor', payload: { lockTime: '10m' }, responseTimeoutInSeconds: 15 };
  assert.equal((await jobs.scheduleDeviceMethod(methodJob, both, method, now(), 60)).jobStatus.status, 'queued');
  const called = await final(methodJob);
  assert.equal(called.status, 'completed');
  assert.deepEqual(called.cloudToDeviceMethod.payload, method.payload);
  assert.deepEqual(called.deviceJobStatistics, { deviceCount: 2, failedCount: 1, succeededCount: 1, runningCount: 0, pendingCount: 0 });
  const byDevice = Object.fromEntries((await records(methodJob)).map((record) => [record.deviceId, record]));
  const success = byDevice[online.deviceId];
  assert.equal(success.status, 'completed');
  assert.equal(success.jobType, 'scheduleDeviceMethod');
  assert.deepEqual(success.outcome.deviceMethodResponse, { status: 200, payload: { locked: { lockTime: '10m' } } });
  for (const time of ['createdDateTimeUtc', 'startTimeUtc', 'endTimeUtc', 'lastUpdatedDateTimeUtc']) assert.match(success[time], /^20\d\d-/, time);
  assert.equal(byDevice[offline.deviceId].status, 'failed');
  assert.equal(byDevice[offline.deviceId].error.code, 'DeviceNotOnline');

  // A module is a target of its own: a condition may bring its collection along.
  const { responseBody: module } = await devices.addModule({ deviceId: online.deviceId, moduleId: unique('module') });
  const moduleClient = await connect(module);
  moduleClient.onMethod('lockDoor', (request, response) => response.send(200, 'module', () => {}));
  moduleClient.onMethod('ready', ready);
  await callable(online.deviceId, module.moduleId);
  const moduleJob = unique('job');
  const ofModule = `FROM devices.modules WHERE moduleId = '${module.moduleId}'`;
  await jobs.scheduleDeviceMethod(moduleJob, ofModule, method, now(), 60);
  assert.equal((await final(moduleJob)).deviceJobStatistics.succeededCount, 1);
  const [moduleRecord] = await records(moduleJob);
  assert.deepEqual([moduleRecord.deviceId, moduleRecord.moduleId], [online.deviceId, module.moduleId]);
  assert.deepEqual(moduleRecord.outcome.deviceMethodResponse, { status: 200, payload: 'module' });

  // While a device takes its time the job runs, its statistics add up and the device's record is open.
  const slow = await createDevice('jobs');
  const slowClient = await connect(slow);
  let answer;
  slowClient.onDeviceMethod('lockDoor', (request, response) => { answer = () => response.send(200, 'at last', () => {}); });
  slowClient.onDeviceMethod('ready', ready);
  await callable(slow.deviceId);
  const waiting = unique('job');
  await jobs.scheduleDeviceMethod(waiting, `deviceId IN ['${online.deviceId}', '${slow.deviceId}']`, method, now(), 60);
  const running = await eventually('the first answer', async () => {
    const job = await read(waiting);
    return job.deviceJobStatistics?.succeededCount === 1 && job;
  });
  assert.equal(running.status, 'running');
  assert.deepEqual(running.deviceJobStatistics, { deviceCount: 2, failedCount: 0, succeededCount: 1, runningCount: 1, pendingCount: 0 });
  const open = (await records(waiting)).find((record) => record.deviceId === slow.deviceId);
  assert.equal(open.status, 'running');
  assert.match(open.endTimeUtc, /^0001-01-01T/, 'never null');
  await rejects(jobs.cancelJob(waiting), { name: 'InvalidEtagError', status: 412, code: 'JobRunPreconditionFailed' });
  (await eventually('the call', () => answer))();
  assert.equal((await final(waiting)).deviceJobStatistics.succeededCount, 2);

  // A window that ends before the device has answered.
  const brief = unique('job');
  await jobs.scheduleDeviceMethod(brief, `deviceId = '${slow.deviceId}'`, method, now(), 1);
  const ended = await final(brief);
  assert.equal(ended.status, 'failed');
  assert.match(ended.failureReason, /JobTimedOut/);
  assert.equal((await records(brief))[0].error.code, 'JobTimedOut');

  // A start that is near: not before its time.
  const soon = unique('job');
  const due = new Date(Date.now() + 2_000);
  await jobs.scheduleTwinUpdate(soon, only, { etag: '*', tags: { soon: true } }, due, 60);
  assert.equal((await devices.getTwin(online.deviceId)).responseBody.tags.soon, undefined);
  const onTime = await final(soon);
  assert.ok(Date.parse(onTime.endTime) >= due.getTime(), `${onTime.endTime} before ${due.toISOString()}`);
  assert.equal((await devices.getTwin(online.deviceId)).responseBody.tags.soon, true);
  await devices.updateTwin(online.deviceId, { tags: { soon: null } }, '*');

  // A device that answers with an error has answered.
  const failing = unique('job');
  await jobs.scheduleDeviceMethod(failing, only, { methodName: 'fail', responseTimeoutInSeconds: 15 }, now(), 60);
  assert.equal((await final(failing)).deviceJobStatistics.succeededCount, 1);
  assert.deepEqual((await records(failing))[0].outcome.deviceMethodResponse, { status: 500, payload: 'no' });

  // No device at all, a condition that is wrong, and a start that lies in the past.
  const empty = unique('job');
  await jobs.scheduleTwinUpdate(empty, `deviceId = '${unique('absent')}'`, update, new Date(0), 60);
  const nobody = await final(empty);
  assert.equal(nobody.status, 'completed');
  assert.equal(nobody.deviceJobStatistics.deviceCount, 0);
  const wrong = unique('job');
  await jobs.scheduleTwinUpdate(wrong, 'SELECT * FROM devices', update, now(), 60);
  const failed = await final(wrong);
  assert.equal(failed.status, 'failed');
  assert.match(failed.failureReason, /./);

  // Without a window a job has an hour.
  const unbounded = unique('job');
  await jobs.scheduleTwinUpdate(unbounded, only, update, now());
  assert.equal((await final(unbounded)).maxExecutionTimeInSeconds, 3600);

  // A job ahead waits, can be cancelled once, and never runs.
  const ahead = unique('job');
  const inAnHour = new Date(Date.now() + 3_600_000);
  assert.equal((await jobs.scheduleTwinUpdate(ahead, only, { etag: '*', tags: { never: true } }, inAnHour, 60)).jobStatus.status, 'queued');
  const scheduled = await eventually('the job to be scheduled', async () => {
    const job = await read(ahead);
    return job.status === 'scheduled' && job;
  });
  assert.equal(Date.parse(scheduled.startTime), inAnHour.getTime());
  assert.ok(!scheduled.endTime);
  assert.equal((await jobs.cancelJob(ahead)).jobStatus.status, 'cancelled');
  assert.equal((await read(ahead)).status, 'cancelled');
  await rejects(jobs.cancelJob(ahead), { name: 'InvalidEtagError', status: 412, code: 'JobRunPreconditionFailed' });
  await rejects(jobs.cancelJob(twinJob), { name: 'InvalidEtagError', status: 412, code: 'JobRunPreconditionFailed' });
  await rejects(jobs.cancelJob(unique('absent')), { status: 404, code: 'JobNotFound' });
  assert.deepEqual((await devices.getTwin(online.deviceId)).responseBody.tags, { building: 43 });

  // An id that nobody used is an unknown job rather than an error; one that was used stays taken.
  const unknown = await read(unique('absent'));
  assert.deepEqual([unknown.type, unknown.status], ['unknown', 'unknown']);
  await rejects(jobs.scheduleTwinUpdate(twinJob, only, update, now(), 60), { name: 'DeviceAlreadyExistsError', status: 409, code: 'JobAlreadyExists' });

  // Listings: by type and status, in pages.
  const listed = async (...filter) => (await allPages(jobs.createQuery(...filter))).rows;
  const finished = await listed('scheduleUpdateTwin', 'completed');
  assert.ok(finished.some((job) => job.jobId === twinJob));
  assert.ok(finished.every((job) => job.type === 'scheduleUpdateTwin' && job.status === 'completed'));
  assert.ok((await listed(undefined, 'cancelled')).some((job) => job.jobId === ahead));
  assert.ok((await listed('scheduleDeviceMethod', 'failed')).some((job) => job.jobId === brief));
  const paged = await allPages(jobs.createQuery(undefined, undefined, 2));
  assert.ok(paged.sizes.length > 2 && paged.sizes.slice(0, -1).every((size) => size === 2), String(paged.sizes));
  assert.equal(new Set(paged.rows.map((job) => job.jobId)).size, paged.rows.length);

  // Requests that the service refuses. Without a start time the package sends an explicit null, which the service refuses too.
  const invalid = { name: 'ArgumentError', status: 400 };
  await rejects(jobs.scheduleTwinUpdate(unique('job'), only, update), invalid);
  await rejects(jobs.scheduleTwinUpdate(unique('job'), only, { etag: 'AAAA', tags: {} }, now(), 60), invalid);
  await rejects(jobs.scheduleTwinUpdate(unique('job'), only, { tags: {} }, now(), 60), invalid);
  await rejects(jobs.scheduleTwinUpdate(unique('job'), only, { etag: '*', desired: { a: 1 } }, now(), 60), invalid);
  await rejects(jobs.scheduleTwinUpdate('under_score', only, update, now(), 60), invalid);
  await rejects(jobs.scheduleTwinUpdate(unique('job').padEnd(65, 'x'), only, update, now(), 60), invalid);
  await rejects(jobs.scheduleTwinUpdate(unique('job'), only, update, now(), -1), invalid);
  await rejects(jobs.scheduleDeviceMethod(unique('job'), only, { methodName: 'x', responseTimeoutInSeconds: 1 }, now(), 60), invalid);
});
