// What the scripts share: clients for the transport under test, ids that are unique to a run, waiting with a deadline, and the hub's
// admin endpoints. `run` is the frame of each script: it closes whatever was opened, so that the process ends by itself, and turns a
// failure into one line on stderr.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const https = require('node:https');
const { Client, ModuleClient, Message, SharedAccessSignature } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Http } = require('azure-iot-device-http');
const service = require('azure-iothub');

const HOST = process.env.HUB_HOST;
const SERVICE = process.env.SERVICE_CONNECTION_STRING;
const ADMIN = process.env.HUB_ADMIN;

/** How long a condition may take to come true, in milliseconds. */
const DEADLINE = 15_000;

/** Device transports by the name that TRANSPORT has. */
const TRANSPORTS = { mqtt: Mqtt, 'mqtt-ws': MqttWs, amqp: Amqp, 'amqp-ws': AmqpWs, http: Http };

/** The device transport under test. */
const transport = TRANSPORTS[process.env.TRANSPORT];

/** Whether that is AMQP, where a connection alone says nothing of a device: it is there while it has a link. */
const OVER_AMQP = [Amqp, AmqpWs].includes(transport);

/** Lets an operation of a device client fail at once instead of after minutes of retries. */
const NO_RETRY = { shouldRetry: () => false, nextRetryTimeout: () => 0 };

const opened = new Set();

/** Runs a script's body, closes every device client, and reports a failure as the last line on stderr. */
async function run(body) {
  // A promise that nothing will ever settle would otherwise end the process as if all were well.
  const unfinished = (code) => {
    if (code === 0) {
      console.error('the script waits for something that cannot happen any more');
      process.exitCode = 1;
    }
  };
  process.on('exit', unfinished);
  try {
    await body();
  } catch (error) {
    console.error(error.stack);
    console.error(`${error.name}: ${error.message}`.replace(/\s+/g, ' ').slice(0, 400));
    process.exitCode = 1;
  } finally {
    await Promise.all([...opened].map((client) => close(client).catch(() => {})));
    process.off('exit', unfinished);
  }
}

/** Makes an id that no other script and no other run uses. */
function unique(prefix) {
  return `${prefix}-${crypto.randomUUID().slice(0, 13)}`;
}

function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Turns a function that takes its callback last into a promise. */
function promised(call) {
  return new Promise((resolve, reject) => call((error, result) => (error ? reject(error) : resolve(result))));
}

/** Waits until `condition` returns something truthy and returns that. */
async function eventually(what, condition, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`still waiting for ${what} after ${deadline} ms`);
    await sleep(25);
  }
}

/** Gives a promise a deadline. */
async function within(what, promise, deadline = DEADLINE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`still waiting for ${what} after ${deadline} ms`)), deadline);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Asserts that a promise is rejected with the error class `name`, the HTTP `status` and the service's error `code`, as far as they are
 * given, and returns the error.
 */
async function rejects(promise, { name, status, code }) {
  const error = await within('a refusal', promise).then(
    (value) => assert.fail(`expected ${name ?? status}, got ${JSON.stringify(value?.responseBody ?? value?.result ?? value) ?? value}`),
    (reason) => reason,
  );
  if (error.code === 'ERR_ASSERTION') throw error;
  const got = `expected ${name ?? ''} ${status ?? ''} ${code ?? ''}, got ${error.name}: ${error.responseBody ?? error.message}`;
  if (name) assert.equal(error.name, name, got);
  if (status) assert.equal(error.response?.statusCode ?? error.statusCode, status, got);
  if (code) {
    assert.equal(error.response.headers['iothub-errorcode'], code, got);
    assert.match(error.response.headers['content-type'], /application\/json/);
    assert.equal(errorCodeOf(error.responseBody), code, got);
  }
  return error;
}

/** Numbers of the error codes that come as a nested object instead of by name. */
const NAMES = {
  400004: 'ArgumentInvalid',
  400027: 'ConnectionForcefullyClosedOnNewConnection',
  401002: 'IotHubUnauthorizedAccess',
  404001: 'DeviceNotFound',
  404010: 'ModuleNotFound',
  404103: 'DeviceNotOnline',
  409301: 'ModuleAlreadyExistsOnDevice',
  413001: 'MessageTooLarge',
  502000: 'GenericBadGateway',
  504101: 'GatewayTimeout',
};

/** Reads the error code out of either form of the service's error body. */
function errorCodeOf(body) {
  const { Message } = JSON.parse(body);
  const classic = /^ErrorCode:(\w+);/.exec(Message);
  if (classic) return classic[1];
  const number = JSON.parse(Message).errorCode;
  return NAMES[number] ?? number;
}

const registry = () => service.Registry.fromConnectionString(SERVICE);
const serviceClient = () => service.Client.fromConnectionString(SERVICE);

/** How a back end connects to send and to receive: AMQP, plain or over WebSockets. */
const serviceProtocol = () =>
  ({ amqp: require('azure-iothub/dist/amqp').Amqp, 'amqp-ws': require('azure-iothub/dist/amqp_ws').AmqpWs })[process.env.TRANSPORT];

/** Runs `check` with a back end that sends and receives over the transport, and closes it. */
async function withServiceConnection(check) {
  const client = service.Client.fromConnectionString(SERVICE, serviceProtocol());
  try {
    await within('a connection', client.open());
    await check(client);
  } finally {
    await within('the end', client.close());
  }
}

const jobClient = () => service.JobClient.fromConnectionString(SERVICE);
const digitalTwins = () => new service.DigitalTwinClient(new service.IoTHubTokenCredentials(SERVICE));

/** Creates a device with generated keys and returns its identity. */
async function createDevice(prefix, more = {}) {
  return (await registry().create({ deviceId: unique(prefix), ...more })).responseBody;
}

/** Makes a connection string of a device, or of a module when `identity` has a moduleId. */
function connectionString(identity, key = identity.authentication.symmetricKey.primaryKey) {
  const module = identity.moduleId ? `;ModuleId=${identity.moduleId}` : '';
  return `HostName=${HOST};DeviceId=${identity.deviceId}${module};SharedAccessKey=${key}`;
}

/** Makes a SAS token of a device that is valid for `seconds`. */
function sasToken(identity, seconds = 3600, key = identity.authentication.symmetricKey.primaryKey) {
  return SharedAccessSignature.create(HOST, identity.deviceId, key, Math.floor(Date.now() / 1000) + seconds).toString();
}

/** Makes a client that is not open yet, and that `run` will close. With `retry` it keeps the SDK's own ways when something fails. */
function clientFor(identity, { over = transport, key, retry } = {}) {
  const kind = identity.moduleId ? ModuleClient : Client;
  return tracked(kind.fromConnectionString(connectionString(identity, key), over), { retry });
}

/** Has `run` close this client. */
function tracked(client, { retry } = {}) {
  if (!retry) client.setRetryPolicy(NO_RETRY);
  client.on('error', () => {});
  opened.add(client);
  return client;
}

/** Makes a client and opens it; the hub knows the device as connected then. */
async function connect(identity, options) {
  const client = clientFor(identity, options);
  await open(client);
  return client;
}

/** Opens a client, so that the hub knows its device as connected. */
async function open(client) {
  await within('a connection', client.open());
  if (OVER_AMQP) await within('the twin', client.getTwin());
}

/** Closes a client for good. */
async function close(client) {
  opened.delete(client);
  await within('a client to close', client.close());
}

/** Writes reported properties. */
function report(twin, patch) {
  return within('reported properties', promised((done) => twin.properties.reported.update(patch, done)));
}

/**
 * Returns the client's twin and the desired-property notifications as they arrive. The subscription is made when this returns: what
 * follows it on the connection has been answered.
 */
async function watchDesired(client) {
  const twin = await within('the twin', client.getTwin());
  const patches = [];
  twin.on('properties.desired', (patch) => patches.push(structuredClone(patch)));
  await within('the twin', client.getTwin());
  patches.length = 0;
  return { twin, patches };
}

/** Collects a query's rows over all of its pages, and the sizes of the pages. */
async function allPages(query) {
  const rows = [];
  const sizes = [];
  while (query.hasMoreResults) {
    const { result } = await query.next(query.continuationToken);
    rows.push(...result);
    sizes.push(result.length);
  }
  return { rows, sizes };
}

/** Calls an admin endpoint and returns its JSON. */
async function admin(path, options) {
  const response = await fetch(`${ADMIN}/_emulator/${path}`, options);
  assert.ok(response.ok, `${path}: ${response.status}`);
  return response.json();
}

/** Waits until the hub has `count` messages of a device, or of one of its modules, and returns them. */
function telemetryOf({ deviceId, moduleId = null }, count) {
  return eventually(`${count} messages of ${deviceId}`, async () => {
    const { messages } = await admin('telemetry');
    const own = messages.filter((message) => message.deviceId === deviceId && message.moduleId === moduleId);
    return own.length >= count && own;
  });
}

/**
 * Sends a request that the packages have no call for, with the back end's own credentials, and returns status, headers and text.
 * It is for the set-up of scripts and never the thing under test.
 */
function rest(method, path, { body, headers = {} } = {}) {
  const separator = path.includes('?') ? '&' : '?';
  const fields = service.ConnectionString.parse(SERVICE);
  const token = service.SharedAccessSignature.create(
    fields.HostName, fields.SharedAccessKeyName, fields.SharedAccessKey, Math.floor(Date.now() / 1000) + 600);
  return new Promise((resolve, reject) => {
    const request = https.request(
      { host: HOST, method, path: `${path}${separator}api-version=2021-04-12`, headers: { Authorization: token.toString(), ...headers } },
      (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk));
        response.on('end', () => resolve({
          status: response.statusCode, headers: response.headers, text: Buffer.concat(chunks).toString() }));
      });
    request.on('error', reject);
    request.end(body);
  });
}

/** Sends a message to a device: the headers are its properties. */
function sendToDevice({ deviceId }, body, headers = {}) {
  return rest('POST', `/devices/${encodeURIComponent(deviceId)}/messages/deviceBound`, { body, headers });
}

/**
 * Waits for the feedback on messages to a device and returns it as [message id, outcome] in any order. A hub has one queue of feedback,
 * and this empties it: scripts that ask for feedback do not run at the same time.
 */
async function feedbackOf({ deviceId }, count) {
  const records = [];
  await eventually(`${count} records of feedback`, async () => {
    const batch = await rest('GET', '/messages/serviceBound/feedback');
    if (batch.status === 200) {
      records.push(...JSON.parse(batch.text).filter((record) => record.deviceId === deviceId));
      const { status } = await rest('DELETE', `/messages/serviceBound/feedback/${encodeURIComponent(batch.headers.etag.replaceAll('"', ''))}`);
      assert.equal(status, 204);
    }
    return records.length >= count;
  });
  return records.map((record) => [record.originalMessageId, record.statusCode]).sort();
}

module.exports = {
  ADMIN, HOST, SERVICE, transport, OVER_AMQP, NO_RETRY, TRANSPORTS, Client, ModuleClient, Message,
  run, unique, sleep, promised, eventually, within, rejects, errorCodeOf,
  registry, serviceClient, serviceProtocol, withServiceConnection, jobClient, digitalTwins,
  createDevice, connectionString, sasToken, clientFor, tracked, connect, open, close,
  report, watchDesired, allPages, admin, telemetryOf, rest, sendToDevice, feedbackOf,
};
