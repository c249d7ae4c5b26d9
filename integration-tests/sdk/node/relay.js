// Relays: local TCP ports that lead to a port of the hub. A script that connects through one can cut the connection, and can show that
// a client uses another port than the one that its package fixes.
'use strict';

const net = require('node:net');

/** Opens a relay from any free port to `port` of the hub. It keeps no process alive. */
async function openRelay(port) {
  const sockets = new Set();
  const relay = { port: 0, accepted: 0 };
  const server = net.createServer((near) => {
    relay.accepted += 1;
    // By address, so that redirections of `localhost` do not lead back here.
    const far = net.connect(port, '127.0.0.1');
    for (const [socket, other] of [[near, far], [far, near]]) {
      sockets.add(socket);
      socket.unref();
      socket.on('error', () => {});
      socket.on('close', () => { sockets.delete(socket); other.destroy(); });
      socket.pipe(other);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  server.unref();
  relay.port = server.address().port;
  // Without a goodbye of TLS or MQTT, and without a reset, after which the packages do not connect again.
  relay.cut = () => { for (const socket of sockets) socket.destroy(); };
  return relay;
}

module.exports = { openRelay };
