// feature: Reading telemetry (Event Hubs)
// transports: amqp, amqp-plain, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { EventHubConsumerClient, EventHubProducerClient, earliestEventPosition, latestEventPosition } = require('@azure/event-hubs');
const WebSocket = require('ws');
const { Mqtt } = require('azure-iot-device-mqtt');
const { ADMIN, Message, clientFor, close, createDevice, eventually, registry, run, unique, within } = require('./support');

const over = process.env.TRANSPORT;
const string = process.env.EVENT_HUB_CONNECTION_STRING + (over === 'amqp-plain' ? ';UseDevelopmentEmulator=true' : '');
const options = {
  retryOptions: { maxRetries: 0, timeoutInMs: 10_000 },
  ...(over === 'amqp-ws' && { webSocketOptions: { webSocket: WebSocket } }),
};
/** A consumer group of the script's own: readers with an epoch take partitions from others. */
const GROUP = unique('node');

/** Clients that keep the process alive until they are closed. */
const clients = new Set();

function consumer({ group = GROUP, from = string, store } = {}) {
  const loadBalancingOptions = { strategy: 'greedy', updateIntervalInMs: 200 };
  const client = store
    ? new EventHubConsumerClient(group, from, store, { ...options, loadBalancingOptions })
    : new EventHubConsumerClient(group, from, options);
  clients.add(client);
  return client;
}

/** Sends messages of a device or module, one after the other. */
async function send(identity, ...messages) {
  const client = clientFor(identity, { over: Mqtt });
  await within('a connection', client.open());
  for (const message of messages) await within('an acknowledgement', client.sendEvent(message));
  await close(client);
}

/** Reads in the background: `events` and `errors` grow until `stop` is called. */
function read(client, { partition, onEvents, ...how } = {}) {
  const events = [];
  const errors = [];
  const handlers = {
    processEvents: async (batch, context) => {
      events.push(...batch);
      await onEvents?.(batch, context);
    },
    processError: async (error) => void errors.push(error),
  };
  const subscribeOptions = { startPosition: earliestEventPosition, maxWaitTimeInSeconds: 1, ...how };
  const subscription = partition === undefined
    ? client.subscribe(handlers, subscribeOptions)
    : client.subscribe(partition, handlers, subscribeOptions);
  const stop = () => within('a subscription to end', subscription.close());
  return { events, errors, stop };
}

/** A body that is no JSON comes as bytes. */
const bodyOf = ({ body }) => (Buffer.isBuffer(body) ? body.toString() : body);

const of = (device, events) => events.filter((event) => event.systemProperties['iothub-connection-device-id'] === device.deviceId);

/** Reads until `count` events of a device have come, and returns them. */
async function received(client, device, count, how) {
  const reader = read(client, how);
  await eventually(`${count} events`, () => of(device, reader.events).length >= count || reader.errors.length);
  await reader.stop();
  assert.deepEqual(reader.errors, []);
  return of(device, reader.events);
}

async function everything() {
  await fetch(`${ADMIN}/_emulator/consumer-groups/${GROUP}`, { method: 'PUT' });
  const client = consumer();
  const device = await createDevice('read');

  // The stream is described.
  const stream = await within('properties', client.getEventHubProperties());
  assert.deepEqual(stream.partitionIds, ['0', '1', '2', '3']);
  assert.ok(Date.now() - stream.createdOn < 3_600_000, `${stream.createdOn}`);

  // Everything that a device says, and what the hub says of it.
  const message = new Message(JSON.stringify({ temperature: 21.5 }));
  Object.assign(message, { messageId: 'id 1', correlationId: 'corr/2', userId: 'me', contentType: 'application/json', contentEncoding: 'utf-8' });
  message.properties.add('color', 'rot ü');
  await send(device, message, new Message('1'), new Message('2'), new Message('3'));
  const events = await received(client, device, 4);
  const [first] = events;
  assert.deepEqual(first.body, { temperature: 21.5 });
  assert.deepEqual(events.slice(1).map((event) => event.body), [1, 2, 3]);
  assert.deepEqual(first.properties, { color: 'rot ü' });
  assert.deepEqual([first.messageId, first.correlationId, first.contentType], ['id 1', 'corr/2', 'application/json']);
  assert.equal(first.systemProperties['iothub-message-source'], 'Telemetry');
  assert.match(first.systemProperties['iothub-connection-auth-method'], /"scope":"device","type":"sas"/);
  assert.ok(Math.abs(Date.now() - first.enqueuedTimeUtc) < 3_600_000);
  assert.match(String(first.offset), /^\d+$/);
  const { responseBody: module } = await registry().addModule({ deviceId: device.deviceId, moduleId: 'camera' });
  await send(module, new Message('of a module'));
  const ofModule = (await received(client, device, 5)).at(-1);
  assert.equal(ofModule.systemProperties['iothub-connection-module-id'], 'camera');

  // Its partition, and places to begin.
  const candidates = await Promise.all(stream.partitionIds.map((id) => client.getPartitionProperties(id)));
  const last = ofModule.sequenceNumber;
  let partition;
  for (const { partitionId, isEmpty } of candidates) {
    if (isEmpty) continue;
    const reader = read(client, { partition: partitionId });
    const { lastEnqueuedSequenceNumber } = await client.getPartitionProperties(partitionId);
    await eventually('the partition', () => reader.events.some((event) => event.sequenceNumber >= lastEnqueuedSequenceNumber) || reader.errors.length);
    await reader.stop();
    if (of(device, reader.events).length) partition = partitionId;
  }
  const info = await client.getPartitionProperties(partition);
  assert.ok(info.lastEnqueuedSequenceNumber >= last && info.beginningSequenceNumber <= first.sequenceNumber, JSON.stringify(info));
  assert.match(String(info.lastEnqueuedOffset), /^\d+$/);
  for (const [startPosition, body] of [
    [{ sequenceNumber: events[1].sequenceNumber }, 2],
    [{ sequenceNumber: events[1].sequenceNumber, isInclusive: true }, 1],
    [{ offset: events[1].offset }, 2],
    [{ offset: events[1].offset, isInclusive: true }, 1],
    [{ enqueuedOn: new Date(first.enqueuedTimeUtc.getTime() - 1) }, { temperature: 21.5 }],
  ]) {
    const [begin] = await received(client, device, 1, { partition, startPosition });
    assert.deepEqual(begin.body, body, JSON.stringify(startPosition));
  }
  const fresh = read(client, { partition, startPosition: latestEventPosition, trackLastEnqueuedEventProperties: true });
  await eventually('a new event', async () => {
    await send(device, new Message('late'));
    return fresh.events.length || fresh.errors.length;
  });
  await fresh.stop();
  assert.deepEqual(fresh.errors, []);
  assert.ok(of(device, fresh.events).every((event) => bodyOf(event) === 'late'));

  // Many, and large ones, in order.
  const large = 'x'.repeat(200_000);
  const busy = await createDevice('read');
  await send(busy, ...Array.from({ length: 200 }, (_, n) => new Message(`n${n}`)), new Message(large));
  const many = await received(client, busy, 201);
  assert.deepEqual(many.map(bodyOf), [...Array.from({ length: 200 }, (_, n) => `n${n}`), large]);

  // An epoch takes the partition away.
  const owner = read(client, { partition, ownerLevel: 1 });
  await eventually('an event', () => owner.events.length);
  const second = consumer();
  const thief = read(second, { partition, ownerLevel: 2 });
  await eventually('the theft', () => thief.events.length && owner.errors.length);
  assert.equal(owner.errors[0].code, 'ReceiverDisconnectedError');
  const third = consumer();
  const refused = read(third, { partition, ownerLevel: 0 });
  await eventually('a refusal', () => refused.errors.length);
  assert.equal(refused.errors[0].code, 'ReceiverDisconnectedError');
  await Promise.all([owner.stop(), thief.stop(), refused.stop()]);

  // A consumer that starts again goes on at its checkpoints.
  const owned = new Map();
  const checkpoints = new Map();
  const store = {
    listOwnership: async () => [...owned.values()],
    claimOwnership: async (claims) => claims.map((claim) => {
      const taken = { ...claim, etag: `${Math.random()}`, lastModifiedTimeInMs: Date.now() };
      owned.set(claim.partitionId, taken);
      return taken;
    }),
    updateCheckpoint: async (checkpoint) => void checkpoints.set(checkpoint.partitionId, checkpoint),
    listCheckpoints: async () => [...checkpoints.values()],
  };
  const counted = await createDevice('read');
  const seen = [];
  for (const round of [0, 1]) {
    await send(counted, ...Array.from({ length: 20 }, (_, n) => new Message(`c${20 * round + n}`)));
    const again = consumer({ store });
    const onEvents = async (batch, context) => {
      if (batch.length) await context.updateCheckpoint(batch.at(-1));
      seen.push(...of(counted, batch).map(bodyOf));
    };
    const reader = read(again, { onEvents });
    await eventually('all events', () => seen.length >= 20 * (round + 1) || reader.errors.length);
    await reader.stop();
    await again.close();
    assert.deepEqual(reader.errors, []);
  }
  assert.deepEqual(seen, Array.from({ length: 40 }, (_, n) => `c${n}`));

  // The program of the README prints telemetry.
  const readme = readFileSync(path.join(__dirname, '../../../README.md'), 'utf8');
  const [program] = [...readme.matchAll(/```js\n(.*?)```/gs)].map(([, text]) => text).filter((text) => text.includes('EventHubConsumerClient'));
  await send(device, new Message('for the README'));
  const child = spawn(process.execPath, ['-e', program], { env: { ...process.env, EVENTS: process.env.EVENT_HUB_CONNECTION_STRING } });
  let output = '';
  child.stdout.on('data', (text) => (output += text));
  try {
    await eventually('the program to print it', () => output.includes(`${device.deviceId} for the README\n`));
  } finally {
    child.kill();
  }

  // Who may not read is told.
  const fails = async (what, code) => {
    const error = await within('a refusal', what).then(() => assert.fail('no error'), (reason) => reason);
    assert.equal(error.code, code, `${error.name}: ${error.message}`);
  };
  await fails(client.getPartitionProperties('99'), 'MessagingEntityNotFoundError');
  const stranger = consumer({ from: string.replace(/SharedAccessKey=[^;]*/, `SharedAccessKey=${'A'.repeat(43)}=`) });
  await fails(stranger.getPartitionIds(), 'UnauthorizedError');
  const nobody = consumer({ group: 'no-such-group' });
  const nothing = read(nobody, { partition: '0' });
  await eventually('a refusal', () => nothing.errors.length);
  assert.equal(nothing.errors[0].code, 'MessagingEntityNotFoundError');
  await nothing.stop();
  const producer = new EventHubProducerClient(string, options);
  clients.add(producer);
  await fails(producer.sendBatch([{ body: 'not from a device' }]), 'UnauthorizedError');
}

run(async () => {
  try {
    await everything();
  } finally {
    await within('clients to close', Promise.all([...clients].map((client) => client.close())));
  }
});
