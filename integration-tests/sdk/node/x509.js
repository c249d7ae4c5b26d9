// feature: X.509 certificates
// transports: mqtt, mqtt-ws, amqp, amqp-ws, http
'use strict';

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { X509Certificate } = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const {
  ADMIN, Client, HOST, Message, clientFor, close, createDevice, eventually, registry, rejects, report, run, telemetryOf, tracked, transport, unique, within,
} = require('./support');

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'x509-'));
const refused = { name: 'UnauthorizedError' };

/** Makes a P-256 key and a certificate with openssl: its own signer unless `issuer` is given. */
function certificate(commonName, { issuer, authority } = {}) {
  const file = path.join(directory, unique('certificate'));
  const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const extension = ['-addext', `basicConstraints=critical,CA:${authority ? 'TRUE' : 'FALSE'}`];
  openssl('req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', `/CN=${commonName}`,
    '-keyout', `${file}.key`, ...(issuer ? ['-out', `${file}.csr`] : ['-x509', '-days', '30', '-out', `${file}.pem`]), ...extension);
  if (issuer) {
    openssl('x509', '-req', '-in', `${file}.csr`, '-CA', `${issuer.file}.pem`, '-CAkey', `${issuer.file}.key`, '-CAcreateserial',
      '-days', '30', '-copy_extensions', 'copy', '-out', `${file}.pem`);
  }
  const cert = fs.readFileSync(`${file}.pem`, 'utf8');
  const { fingerprint, fingerprint256 } = new X509Certificate(cert);
  return {
    file, cert, key: fs.readFileSync(`${file}.key`, 'utf8'), sha1: fingerprint.replaceAll(':', ''), sha256: fingerprint256.replaceAll(':', '') };
}

/** A client of a device that shows a certificate, or nothing at all. */
function clientWith(deviceId, shown) {
  const client = tracked(Client.fromConnectionString(`HostName=${HOST};DeviceId=${deviceId};x509=true`, transport));
  // Not awaited: the options hold from here on, and the HTTP transport never calls back.
  if (shown) client.setOptions({ cert: shown.cert, key: shown.key }, () => {});
  return client;
}

/** Connects and sends a message, which over HTTP is what a connection is. */
async function sends(deviceId, shown, body) {
  const client = clientWith(deviceId, shown);
  await within('a connection', client.open());
  await within('an acknowledgement', client.sendEvent(new Message(body)));
  return client;
}

run(async () => {
  const devices = registry();

  // A device that is known by the thumbprint of its certificate: either of two, SHA-1 or SHA-256.
  const mine = certificate('any name');
  const spare = certificate('any name');
  const strange = certificate('any name');
  const authentication = { type: 'selfSigned', x509Thumbprint: { primaryThumbprint: mine.sha1, secondaryThumbprint: spare.sha256 } };
  const device = await createDevice('x509', { authentication });
  const { deviceId } = device;
  assert.equal((await devices.getTwin(deviceId)).responseBody.authenticationType, 'selfSigned');
  for (const own of [mine, spare]) await close(await sends(deviceId, own, `by ${own === mine ? 'primary' : 'secondary'}`));
  assert.deepEqual((await telemetryOf(device, 2)).map((message) => message.body), ['by primary', 'by secondary']);
  await rejects(sends(deviceId, strange, 'no'), refused);
  await rejects(sends(unique('absent'), mine, 'no'), refused);
  await rejects(clientFor(device, { key: Buffer.alloc(32, 1).toString('base64') }).sendEvent(new Message('no')), refused);

  // Methods and twins are the same over it.
  if (process.env.TRANSPORT !== 'http') {
    const client = await sends(deviceId, mine, 'again');
    await eventually('the device to be connected', async () => (await devices.get(deviceId)).responseBody.connectionState === 'Connected');
    await report(await client.getTwin(), { secure: true });
    assert.equal((await devices.getTwin(deviceId)).responseBody.properties.reported.secure, true);
    await close(client);
  }

  // Rolling: the spare becomes the primary, and what was taken away is refused.
  await devices.update({ ...device, authentication: { type: 'selfSigned', x509Thumbprint: { primaryThumbprint: spare.sha1 } } });
  await close(await sends(deviceId, spare, 'rolled'));
  await rejects(sends(deviceId, mine, 'no'), refused);
  await devices.update({ ...device, status: 'disabled' });
  await rejects(sends(deviceId, mine, 'no'), refused);

  // A device whose certificate an authority has issued: to its id, by one that the hub knows.
  const authority = certificate(unique('authority'), { authority: true });
  const unknown = certificate(unique('authority'), { authority: true });
  const registered = await fetch(`${ADMIN}/_emulator/device-cas`, { method: 'POST', body: authority.cert });
  assert.ok(registered.ok, await registered.text());
  const byAuthority = await createDevice('x509', { authentication: { type: 'certificateAuthority' } });
  const issued = certificate(byAuthority.deviceId, { issuer: authority });
  if (process.env.TRANSPORT === 'http') {
    // The service takes certificates of authorities over MQTT and AMQP only.
    await rejects(sends(byAuthority.deviceId, issued, 'no'), refused);
  } else {
    await close(await sends(byAuthority.deviceId, issued, 'issued'));
    assert.equal((await telemetryOf(byAuthority, 1))[0].body, 'issued');
  }
  await rejects(sends(byAuthority.deviceId, certificate(deviceId, { issuer: authority }), 'no'), refused);
  await rejects(sends(byAuthority.deviceId, certificate(byAuthority.deviceId, { issuer: unknown }), 'no'), refused);
  await rejects(sends(byAuthority.deviceId, certificate(byAuthority.deviceId), 'no'), refused);
  await rejects(sends(byAuthority.deviceId, mine, 'no'), refused);

  // A certificate is of no use for a device that has keys.
  const withKeys = await createDevice('x509');
  await rejects(sends(withKeys.deviceId, certificate(withKeys.deviceId, { issuer: authority }), 'no'), refused);
}).finally(() => fs.rmSync(directory, { recursive: true }));
