// Lets unmodified Azure IoT packages for Node reach a hub on other ports than 443, 8883 and 5671, which the packages fix:
//
//   NODE_OPTIONS="--require /path/iothub-ports.js" IOTHUB_PORTS=443:8443,8883:18883 IOTHUB_HOSTS=localhost node app.js
//
//   IOTHUB_PORTS    which port becomes which, "from:to" separated by commas
//   IOTHUB_HOSTS    host names whose connections are redirected, separated by commas; all others are left alone
//   IOTHUB_ADDRESS  optional: the IP address to connect to instead of looking the name up, for names that do not resolve
//
// Only where the TCP connection goes changes. The name in TLS, in HTTP and in tokens stays what the program asked for.
'use strict';

const net = require('node:net');

/** Ends the process over a bad setting: ignoring it would let the program reach the wrong hub. */
function refuse(problem) {
  process.stderr.write(`iothub-ports.js: ${problem}\n`);
  process.exit(1);
}

function items(name) {
  const list = (process.env[name] || '').split(',').map((item) => item.trim()).filter((item) => item !== '');
  if (list.length === 0) refuse(`${name} is not set`);
  return list;
}

function readPorts() {
  const ports = new Map();
  const isPort = (port) => port >= 1 && port <= 65535;
  for (const item of items('IOTHUB_PORTS')) {
    const match = /^(\d{1,5}):(\d{1,5})$/.exec(item);
    if (!match || !isPort(Number(match[1])) || !isPort(Number(match[2]))) {
      refuse(`IOTHUB_PORTS: ${JSON.stringify(item)} is not two ports from 1 to 65535, like 443:8443`);
    }
    const from = Number(match[1]);
    if (ports.has(from)) refuse(`IOTHUB_PORTS: port ${from} is given twice`);
    ports.set(from, Number(match[2]));
  }
  return ports;
}

function readHosts() {
  for (const host of items('IOTHUB_HOSTS')) {
    if (/[\s/:]/.test(host) && !net.isIPv6(host)) refuse(`IOTHUB_HOSTS: ${JSON.stringify(host)} is not a host name`);
  }
  return new Set(items('IOTHUB_HOSTS').map((host) => host.toLowerCase()));
}

function readAddress() {
  const address = process.env.IOTHUB_ADDRESS;
  if (address && net.isIP(address) === 0) refuse(`IOTHUB_ADDRESS: ${JSON.stringify(address)} is not an IP address`);
  return address;
}

const ports = readPorts();
const hosts = readHosts();
const address = readAddress();

/** Returns the options to connect with, the same ones when they are none of ours. */
function redirected(options) {
  if (options === null || typeof options !== 'object' || options.path) return options;
  const host = String(options.host || 'localhost').toLowerCase();
  const port = ports.get(Number(options.port));
  if (port === undefined || !hosts.has(host)) return options;
  // A copy: agents keep the original to tell connections to different hosts apart.
  return { ...options, port, ...(address && { host: address }) };
}

// Every TCP connection of Node passes here, those of tls, http and https included. The arguments are either the ones that a program
// gave, (options), (port, host) or (path) with an optional callback, or one array of options and callback that `net.connect` has made.
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function iothubConnect(...args) {
  if (Array.isArray(args[0])) {
    // Node marks this array with a symbol and has read it into shape once already, so it is changed in place.
    args[0][0] = redirected(args[0][0]);
  } else if (args[0] !== null && typeof args[0] === 'object') {
    args[0] = redirected(args[0]);
  } else if (typeof args[0] === 'number' || /^\d+$/.test(args[0])) {
    const [port, host] = args;
    const named = typeof host === 'string';
    const { port: newPort, host: newHost } = redirected({ port, host: named ? host : undefined });
    args.splice(0, named ? 2 : 1, newPort, newHost || 'localhost');
  }
  return connect.apply(this, args);
};
