// Echo by the npm package ws, for Autobahn: `echo.cjs serve`, or `echo.cjs client URL AGENT [h2]`.
'use strict';
const { WebSocket, WebSocketServer } = require('ws');
const { Http2WebSocket } = require('./over_http2.cjs');

const [mode, url, agent, version] = process.argv.slice(2);
const Socket = version === 'h2' ? Http2WebSocket : WebSocket;
const options = { perMessageDeflate: true, maxPayload: 0 };

function echo(socket) {
  socket.on('message', (data, binary) => socket.send(data, { binary }));
  socket.on('error', () => {});
}

function serve() {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, ...options });
  server.on('connection', echo);
  server.on('listening', () => console.log(server.address().port));
}

// Opens a connection and waits for its end; returns the last message.
function visit(url, take) {
  return new Promise((done) => {
    const socket = new Socket(url, [], options);
    let last;
    socket.on('message', (data) => (last = data.toString()));
    if (take) echo(socket);
    else socket.on('error', (error) => console.error(`${url}: ${error.message}`));
    socket.on('close', () => done(last));
  });
}

async function client(url, agent) {
  const count = Number(await visit(`${url}/getCaseCount`));
  for (let number = 1; number <= count; number++) await visit(`${url}/runCase?case=${number}&agent=${agent}`, true);
  await visit(`${url}/updateReports?agent=${agent}`);
}

if (mode === 'serve') serve();
else client(url, agent).then(() => process.exit());
