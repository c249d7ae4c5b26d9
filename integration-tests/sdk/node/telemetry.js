// feature: Telemetry
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { Message, OVER_AMQP, connect, createDevice, registry, rejects, run, telemetryOf, within } = require('./support');

run(async () => {
  const devices = registry();
  const device = await createDevice('telemetry');
  const client = await connect(device);

  // Every system property, and application properties with all that must be escaped.
  const message = new Message(JSON.stringify({ temperature: 21.5, text: 'grün' }));
  message.messageId = 'id-1 ä/#+$';
  message.correlationId = 'correlation&=?';
  message.userId = 'user';
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  const awkward = {
    plain: 'value', 'with space': 'a b', 'with&amp': 'x&y=z', 'with=equals': '==', 'slash/and#plus+': '/#+', 'percent%': '100 %',
    ünïcode: '日本語 🚪', '$dollar': '$', empty: '', quotes: '"\'', 'a.b.c': 'dots', '?': '?&?',
  };
  for (const [key, value] of Object.entries(awkward)) message.properties.add(key, value);
  const sent = Date.now();
  await within('an acknowledgement', client.sendEvent(message));
  const [first] = await telemetryOf(device, 1);
  assert.equal(first.body, message.data);
  assert.deepEqual(first.properties, awkward);
  // The package's AMQP messages leave the user id out.
  const user = OVER_AMQP ? {} : { '$.uid': 'user' };
  assert.deepEqual(first.systemProperties, { '$.mid': 'id-1 ä/#+$', '$.cid': 'correlation&=?', ...user, '$.ct': 'application/json', '$.ce': 'utf-8' });
  assert.equal(first.moduleId, null);
  assert.ok(Math.abs(Date.parse(first.enqueuedTimeUtc) - sent) < 3_600_000);

  // Bodies: none, large, and as large as the package lets through.
  for (const size of [0, 1, 65_024, 250_000]) await within('an acknowledgement', client.sendEvent(new Message(Buffer.alloc(size, 'x'))));
  const bodies = (await telemetryOf(device, 5)).slice(1);
  assert.deepEqual(bodies.map((kept) => kept.body.length), [0, 1, 65_024, 250_000]);
  // By a client of its own, whose connection may end with that.
  const bold = await connect(await createDevice('telemetry'));
  await rejects(bold.sendEvent(new Message(Buffer.alloc(300_000))), { name: 'MessageTooLargeError' });
  assert.deepEqual(bodies[0].properties, {});

  // Many at once arrive all, in order, and each once.
  await within('acknowledgements', Promise.all(Array.from({ length: 100 }, (_, i) => client.sendEvent(new Message(String(i))))));
  const many = (await telemetryOf(device, 105)).slice(5);
  assert.deepEqual(many.map((kept) => kept.body), Array.from({ length: 100 }, (_, i) => String(i)));
  assert.ok(many.every((kept, i) => i === 0 || kept.sequence > many[i - 1].sequence));

  // A module, and its outputs.
  const { responseBody: module } = await devices.addModule({ deviceId: device.deviceId, moduleId: 'camera' });
  const camera = await connect(module);
  await within('an acknowledgement', camera.sendEvent(new Message('direct')));
  const output = new Message('through an output');
  output.properties.add('k', 'v');
  await within('an acknowledgement', camera.sendOutputEvent('out/1 ä', output));
  const ofModule = await telemetryOf(module, 2);
  assert.deepEqual(ofModule.map((kept) => kept.body), ['direct', 'through an output']);
  assert.equal(ofModule[1].systemProperties['$.on'].replace(/\/$/, ''), 'out/1 ä');
  assert.deepEqual(ofModule[1].properties, { k: 'v' });
  assert.equal((await telemetryOf(device, 105)).length, 105, 'the device itself sent none of them');
});
