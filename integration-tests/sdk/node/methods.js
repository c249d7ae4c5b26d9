// feature: Direct methods
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { clientFor, close, connect, createDevice, registry, rejects, run, serviceClient, unique } = require('./support');

run(async () => {
  const back = serviceClient();
  const device = await createDevice('methods');
  const { deviceId } = device;
  const call = async (methodName, payload, more) =>
    (await back.invokeDeviceMethod(deviceId, { methodName, payload, responseTimeoutInSeconds: 10, ...more })).result;

  // Nobody there: at once, and after the time that the call waits for the device.
  const offline = { name: 'Error', status: 404, code: 'DeviceNotOnline' };
  await rejects(call('echo', null), offline);
  const started = Date.now();
  await rejects(call('echo', null, { connectTimeoutInSeconds: 1 }), offline);
  assert.ok(Date.now() - started >= 900);
  await rejects(back.invokeDeviceMethod(unique('absent'), { methodName: 'echo' }), { status: 404, code: 'DeviceNotFound' });

  // A call waits until the device comes and listens.
  const waiting = call('echo', 'early', { connectTimeoutInSeconds: 15 });
  const client = clientFor(device);
  await client.open();
  client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload, () => {}));
  assert.deepEqual(await waiting, { status: 200, payload: 'early' });

  // Payloads keep their JSON type both ways.
  const payloads = [null, '', 'foo', {}, [], 0, false, 2.5, { a: [1, { b: null }], text: 'grün "quoted" \u2028' }, 'x'.repeat(100_000)];
  for (const payload of payloads) assert.deepEqual(await call('echo', payload), { status: 200, payload }, JSON.stringify(payload).slice(0, 60));
  client.onDeviceMethod('types', (request, response) => response.send(200, { type: request.payload === null ? 'null' : typeof request.payload }, () => {}));
  for (const [payload, type] of [[null, 'null'], ['', 'string'], ['foo', 'string'], [{}, 'object'], [0, 'number']]) {
    assert.deepEqual((await call('types', payload)).payload, { type });
  }

  // The device decides on status and answer; an answer without a payload is null.
  client.onDeviceMethod('status', (request, response) => response.send(request.payload, { ok: request.payload < 400 }, () => {}));
  for (const status of [200, 201, 400, 404, 500, 501]) assert.deepEqual(await call('status', status), { status, payload: { ok: status < 400 } });
  client.onDeviceMethod('silent', (request, response) => response.send(204, () => {}));
  assert.deepEqual(await call('silent', null), { status: 204, payload: null });
  client.onDeviceMethod('Lock-Door_1.2', (request, response) => response.send(200, request.methodName, () => {}));
  assert.deepEqual(await call('Lock-Door_1.2', null), { status: 200, payload: 'Lock-Door_1.2' });

  // Calls in flight do not block each other, and each gets its own answer.
  const held = [];
  client.onDeviceMethod('hold', (request, response) => {
    held.push([request, response]);
    if (held.length === 5) for (const [r, answer] of held.reverse()) answer.send(200, r.payload, () => {});
  });
  const answers = await Promise.all([1, 2, 3, 4, 5].map((n) => call('hold', n)));
  assert.deepEqual(answers.map((answer) => answer.payload), [1, 2, 3, 4, 5]);

  // What is wrong with a call, and a device that never answers.
  const invalid = { name: 'ArgumentError', status: 400, code: 'ArgumentInvalid' };
  for (const more of [{ responseTimeoutInSeconds: 4 }, { responseTimeoutInSeconds: 301 }, { connectTimeoutInSeconds: 301 }]) {
    const error = await rejects(call('echo', null, more), invalid);
    assert.match(error.responseBody, /must be within \[/);
  }
  await rejects(call('bad/name', null), invalid);
  await rejects(call('x'.repeat(101), null), invalid);
  await rejects(call('echo', 'x'.repeat(131_072)), { status: 413, code: 'MessageTooLarge' });
  assert.throws(() => back.invokeDeviceMethod(deviceId, { methodName: '' }, () => {}), { name: 'ReferenceError' });
  client.onDeviceMethod('never', () => {});
  await rejects(call('never', null, { responseTimeoutInSeconds: 5 }), { name: 'GatewayTimeoutError', status: 504, code: 'GatewayTimeout' });
  assert.deepEqual(await call('echo', 'still fine'), { status: 200, payload: 'still fine' });

  // A device that goes away ends the calls that it has not answered.
  const unanswered = rejects(call('never', null), offline);
  client.onDeviceMethod('bye', (request, response) => response.send(200, () => close(client)));
  await call('bye', null);
  await unanswered;
  await rejects(call('echo', null), offline);

  // One that is connected but never listened is not online; one that is disabled is as good as absent.
  const deaf = await createDevice('methods');
  await connect(deaf);
  await rejects(back.invokeDeviceMethod(deaf.deviceId, { methodName: 'echo' }), offline);
  await registry().update({ ...device, status: 'disabled' });
  await rejects(call('echo', null), { status: 404 });
});
