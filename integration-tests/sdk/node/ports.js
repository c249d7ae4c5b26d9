// feature: Other ports, by preload
// transports: rest, mqtt, mqtt-ws
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const path = require('node:path');
const { HOST, Message, connect, createDevice, digitalTwins, jobClient, registry, rejects, run, serviceClient, telemetryOf, unique, within } = require('./support');
const { openRelay } = require('./relay');

const PRELOAD = path.resolve(__dirname, '../../../emulator/assets/iothub-ports.js');

/** Runs node with the preload and these settings, and returns its exit code and what it wrote. */
async function node(args, settings) {
  const { IOTHUB_PORTS, IOTHUB_HOSTS, IOTHUB_ADDRESS, ...env } = process.env;
  const child = spawn(process.execPath, args, {
    env: { ...env, NODE_OPTIONS: `--require "${PRELOAD}"`, ...settings }, stdio: ['ignore', 'pipe', 'pipe'] });
  const written = { out: '', err: '' };
  child.stdout.on('data', (data) => { written.out += data; });
  child.stderr.on('data', (data) => { written.err += data; });
  const code = await within('the child process', new Promise((resolve) => child.on('close', resolve)));
  return { code, ...written };
}

/** The part of the script that runs in the child, where nothing but the preload knows of other ports. */
const INSIDE = {
  async rest() {
    const device = await createDevice('ports');
    assert.equal((await registry().get(device.deviceId)).responseBody.etag, device.etag);
    await rejects(serviceClient().invokeDeviceMethod(device.deviceId, { methodName: 'x' }), { status: 404, code: 'DeviceNotOnline' });
    assert.equal((await jobClient().getJob(unique('absent'))).jobStatus.status, 'unknown');
    await assert.rejects(digitalTwins().getDigitalTwin(unique('absent')), (error) => error.statusCode === 404);
  },
  async mqtt() {
    const device = await createDevice('ports');
    const client = await connect(device);
    await within('an acknowledgement', client.sendEvent(new Message('by another port')));
    assert.equal((await telemetryOf(device, 1))[0].body, 'by another port');
  },
};

/** The script proper: opens relays and starts itself again with the preload. */
async function outside() {
  const https = await openRelay(443);
  const mqtts = await openRelay(8883);
  const IOTHUB_PORTS = `443:${https.port},8883:${mqtts.port}`;
  const pass = { ...process.env, PORTS_INSIDE: '1' };
  const redirected = await node([__filename], { ...pass, IOTHUB_PORTS, IOTHUB_HOSTS: `example.org,${HOST.toUpperCase()}` });
  assert.equal(redirected.code, 0, redirected.err);
  assert.ok(https.accepted > 0, 'REST went through the relay');
  if (process.env.TRANSPORT === 'mqtt') assert.ok(mqtts.accepted > 0, 'MQTT went through the relay');

  // Other hosts are left alone, and so are other ports.
  const before = https.accepted + mqtts.accepted;
  const untouched = await node([__filename], { ...pass, IOTHUB_PORTS, IOTHUB_HOSTS: 'example.org' });
  assert.equal(untouched.code, 0, untouched.err);
  const otherPorts = await node([__filename], { ...pass, IOTHUB_PORTS: `444:${https.port}`, IOTHUB_HOSTS: HOST });
  assert.equal(otherPorts.code, 0, otherPorts.err);
  assert.equal(https.accepted + mqtts.accepted, before);
  if (process.env.TRANSPORT !== 'rest') return;

  // Each way that programs spell a connection, to a name that does not resolve.
  const spellings = `
    const net = require('node:net');
    const port = 443, host = 'my-hub.invalid';
    const sockets = [net.connect({ port, host }), net.connect(port, host), net.createConnection(String(port), host, () => {}),
      new net.Socket().connect(port, host), new net.Socket().connect({ port, host }, () => {})];
    let open = 0;
    for (const socket of sockets) socket.on('connect', () => { open += 1; socket.end(); if (open === sockets.length) console.log('all'); });`;
  const spelled = await node(['-e', spellings], { IOTHUB_PORTS, IOTHUB_HOSTS: 'my-hub.invalid', IOTHUB_ADDRESS: '127.0.0.1' });
  assert.deepEqual([spelled.code, spelled.out, spelled.err], [0, 'all\n', '']);

  // Bad settings end the program with one line.
  const good = { IOTHUB_PORTS: '443:8443', IOTHUB_HOSTS: 'localhost' };
  const bad = [
    [{ IOTHUB_PORTS: undefined }, /IOTHUB_PORTS is not set/], [{ IOTHUB_HOSTS: '' }, /IOTHUB_HOSTS is not set/],
    [{ IOTHUB_PORTS: '443' }, /"443"/], [{ IOTHUB_PORTS: '443:70000' }, /"443:70000"/], [{ IOTHUB_PORTS: '0:1' }, /"0:1"/],
    [{ IOTHUB_PORTS: '443:1,443:2' }, /twice/], [{ IOTHUB_HOSTS: 'localhost:443' }, /"localhost:443"/],
    [{ IOTHUB_HOSTS: 'https://localhost' }, /host name/], [{ IOTHUB_ADDRESS: 'localhost' }, /IP address/],
  ];
  for (const [settings, message] of bad) {
    const refused = await node(['-e', 'console.log("ran")'], { ...good, ...settings });
    assert.equal(refused.code, 1);
    assert.equal(refused.out, '');
    assert.match(refused.err, message);
    assert.match(refused.err, /^iothub-ports\.js: [^\n]+\n$/);
  }
}

run(process.env.PORTS_INSIDE ? INSIDE[process.env.TRANSPORT] ?? INSIDE.mqtt : outside);
