// The loop of a peer: takes requests from the driver, a JSON object a line, and answers each by its id.
'use strict';
const readline = require('readline');

exports.say = (object) => process.stdout.write(JSON.stringify(object) + '\n');

exports.sleep = (ms) => new Promise((done) => setTimeout(done, ms));

exports.serve = (can, verbs) => {
  const answer = async ({ id, verb, ...args }) => {
    try {
      exports.say({ id, ok: (await verbs[verb](args)) ?? null });
    } catch (error) {
      exports.say({ id, error: String(error.message || error) });
    }
  };
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => answer(JSON.parse(line)));
  lines.on('close', () => process.exit(0));
  exports.say({ can });
};

// Waits for the first of an array that others add to, 10 s at most.
exports.take = async (queue) => {
  for (let left = 2000; left && !queue.length; left--) await exports.sleep(5);
  if (!queue.length) throw new Error('no message within 10 s');
  return queue.shift();
};
