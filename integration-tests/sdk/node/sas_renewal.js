// feature: SAS tokens and their renewal
// transports: mqtt, mqtt-ws, amqp, amqp-ws
'use strict';

const assert = require('node:assert/strict');
const { SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');
const {
  Client, HOST, Message, OVER_AMQP, close, connect, connectionString, clientFor, createDevice, eventually, open, promised, registry, rejects, run, sasToken, serviceClient,
  telemetryOf, tracked, transport, unique, watchDesired, within,
} = require('./support');

const refused = { name: 'UnauthorizedError' };

// What a caller is told when the device's connection ends before its answer, or when another takes its place.
const cutOff = ['DeviceNotOnline', 'ConnectionForcefullyClosedOnNewConnection'];

run(async () => {
  const devices = registry();
  const back = serviceClient();
  const device = await createDevice('sas');
  const other = await createDevice('sas');
  const { deviceId } = device;
  const withToken = (token) => tracked(Client.fromSharedAccessSignature(token, transport));
  const call = async (payload) =>
    (await back.invokeDeviceMethod(deviceId, { methodName: 'echo', payload, responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 10 })).result.payload;
  const desire = (desired) => devices.updateTwin(deviceId, { properties: { desired } }, '*');

  // What lets nobody in.
  const key = device.authentication.symmetricKey;
  const strange = Buffer.alloc(32, 1).toString('base64');
  await rejects(withToken(sasToken(device, 3600, strange)).open(), refused);
  await rejects(withToken(sasToken(device, 3600, other.authentication.symmetricKey.primaryKey)).open(), refused);
  await rejects(withToken(sasToken(device, -3600)).open(), refused);
  await rejects(withToken(sasToken({ ...device, deviceId: unique('absent') })).open(), refused);
  await rejects(clientFor({ deviceId, moduleId: 'absent' }, { key: key.primaryKey }).open(), refused);

  // Either key does.
  for (const either of [key.primaryKey, key.secondaryKey]) {
    const client = await connect(device, { key: either });
    await client.close();
  }

  // A renewal by hand is a new connection over MQTT, on which the SDK does not subscribe again: the hub has to remember.
  const client = withToken(sasToken(device, 600));
  await client.open();
  client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload, () => {}));
  assert.equal(await call('before'), 'before');
  const { twin, patches } = await watchDesired(client);
  for (let round = 1; round <= 3; round += 1) {
    await within('a renewal', promised((done) => client.updateSharedAccessSignature(sasToken(device, 600 + round), done)));
    assert.equal(await call(round), round);
    await desire({ round });
    await eventually('a notification', () => patches.length === round);
    assert.equal(twin.properties.desired.round, round);
    await within('an acknowledgement', client.sendEvent(new Message(`round ${round}`)));
  }
  assert.deepEqual((await telemetryOf(device, 3)).map((message) => message.body), ['round 1', 'round 2', 'round 3']);

  // A renewal with a token that is no good ends the connection. (The package tells that by an event, not by the call's result; over AMQP
  // it does not come back from it.)
  if (OVER_AMQP) {
    await close(client);
  } else {
    const refusal = within('the refusal', new Promise((resolve) => client.once('disconnect', resolve)));
    client.updateSharedAccessSignature(sasToken(device, 600, strange), () => {});
    assert.match(String((await refusal).transportObj), /Not authorized/);
  }

  // The provider of the SDK renews by itself, here after a second instead of 45 minutes.
  const provider = SharedAccessKeyAuthenticationProvider.fromConnectionString(connectionString(device), 10, 9);
  let renewals = 0;
  provider.on('newTokenAvailable', () => { renewals += 1; });
  const renewing = tracked(Client.fromAuthenticationProvider(provider, transport));
  await within('a connection', renewing.open());
  renewing.onDeviceMethod('echo', (request, response) => response.send(200, `renewed ${request.payload}`, () => {}));
  await eventually('two renewals', () => renewals >= 2);
  // A renewal is a new connection, and one that comes while the device is being called cuts the call off: the next call is answered.
  const answer = await eventually('an answer', () => call('by itself').catch((error) => {
    if (!cutOff.includes(error.response?.headers['iothub-errorcode'])) throw error;
  }));
  assert.equal(answer, 'renewed by itself');
  await renewing.close();

  // A connection lives as long as its token.
  const short = withToken(sasToken(device, 2));
  const gone = new Promise((resolve) => short.on('disconnect', resolve));
  await open(short);
  await within('the token to expire', gone);
  assert.equal((await devices.get(deviceId)).responseBody.connectionState, 'Disconnected');
});
