// Owns the way to the proxy: requests with the token, streams of events, and what is said when either fails.

const TOKEN = "holdline-token";

/** The proxy answered, and said no. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Asks the operator for a token; set once by the page. `isWrong`: the one just sent was refused. */
let askForToken = async () => { throw new Refusal(401, "a token is required"); };
let asking = null;

export function onDenied(ask) {
  askForToken = ask;
}

export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
}

/** What a GET of a path gives. Paths have no slash in front: the page may be served below a prefix. */
export async function get(path, signal) {
  const answer = await request(path, { signal });
  return answer.json();
}

/** What a POST of JSON gives. */
export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await request(path, { method: "POST", headers, body: JSON.stringify(body) });
  return answer.json();
}

/**
 * The events of a stream, as { event, data }, until it ends. It counts as broken if nothing at all comes for
 * `patience` milliseconds. Not an EventSource: that one cannot send the token.
 */
export async function* events(path, { signal, patience = Infinity } = {}) {
  const stop = new AbortController();
  const abort = () => stop.abort(signal.reason);
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  const silence = new Alarm(patience, () => stop.abort(new Error(`nothing came for ${patience / 1000} s`)));
  try {
    silence.wind();
    const answer = await request(path, { signal: stop.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      silence.wind();
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    silence.stop();
    signal?.removeEventListener("abort", abort);
    // Whoever leaves the loop early wants no more of it.
    stop.abort();
  }
}

/** One event of a stream; null: a comment. */
function parse(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return data.length === 0 ? null : { event, data: JSON.parse(data.join("\n")) };
}

async function request(path, { headers, ...init }) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const authorization = token === null ? {} : { Authorization: `Bearer ${token}` };
    const answer = await fetch(path, { ...init, headers: { ...headers, ...authorization }, cache: "no-store" });
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await refusal(answer);
    await answer.body?.cancel();
    // Meanwhile another request may have got a new one.
    if (sessionStorage.getItem(TOKEN) === token) await renewToken(token !== null);
  }
}

/** Many requests may be refused at once; the operator is asked once. */
async function renewToken(isWrong) {
  asking ??= askForToken(isWrong).then((token) => sessionStorage.setItem(TOKEN, token));
  try {
    await asking;
  } finally {
    asking = null;
  }
}

async function refusal(answer) {
  const body = await answer.json().catch(() => ({}));
  const said = body.errors?.join("\n") ?? body.error ?? `the answer was ${answer.status} ${answer.statusText}`;
  return new Refusal(answer.status, said);
}

/** Rings once if it was not wound up again in time. */
class Alarm {
  constructor(span, ring) {
    Object.assign(this, { span, ring, timer: undefined });
  }

  wind() {
    this.stop();
    if (this.span !== Infinity) this.timer = setTimeout(this.ring, this.span);
  }

  stop() {
    clearTimeout(this.timer);
  }
}
