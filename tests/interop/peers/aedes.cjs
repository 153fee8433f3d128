// An MQTT broker by the npm packages aedes and ws, which fails a connection on any frame that RFC 6455 forbids.
// Prints its port.
'use strict';
const { Aedes } = require('aedes');
const { WebSocketServer, createWebSocketStream } = require('ws');

async function main() {
  const broker = await Aedes.createBroker();
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, handleProtocols: () => 'mqtt' });
  server.on('connection', (socket, request) => {
    const stream = createWebSocketStream(socket);
    stream.on('error', (error) => console.error(`broker: ${error.message}`));
    broker.handle(stream, request);
  });
  server.on('listening', () => console.log(server.address().port));
}

main();
