// Owns the explanations of the words of the access log, for those who meet them at night.

const WHY = {
  close: "a Close frame",
  eof: "end of stream without a Close frame; applications see 1006",
  reset: "the TCP connection was reset; applications see 1006",
  unresponsive: "no byte came within ping.timeout after a Ping",
  read_timeout: "neither side sent a byte for read_timeout",
  send_timeout: "bytes waited for that side and it took none for send_timeout",
  lifetime: "max_lifetime was over",
  tcp_timeout: "the kernel gave the peer up (keepalive or tcp_user_timeout)",
  operator: "closed through the admin endpoint",
  drain: "its endpoint is drained",
  shutdown: "the proxy stops",
  endpoint_removed: "its endpoint was taken out of the configuration",
  too_big: "a message over max_message_size",
  violation: "a breach of RFC 6455",
  limit: "a limit of connections or handshakes was reached",
  refused: "the request was malformed, or no route serves it",
  unreachable: "no endpoint could be reached, or none was available",
  response_timeout: "the endpoint did not answer the request in time",
  bad_answer: "the endpoint's answer was not valid",
  done: "answered in full",
  aborted: "the task was dropped: a defect, please report it",
};

// RFC 6455 7.4.1 and the registry of IANA.
const CODES = {
  1000: "normal closure",
  1001: "going away",
  1002: "protocol error",
  1003: "unsupported data",
  1005: "no code in the frame",
  1006: "no Close frame",
  1007: "invalid payload",
  1008: "policy violation",
  1009: "message too big",
  1010: "extension required",
  1011: "internal error",
  1012: "service restart",
  1013: "try again later",
  1014: "bad gateway",
};

/** Codes that an operator may want to send, the usual one first. */
export const SENDABLE = [1012, 1000, 1001, 1008, 1011, 1013];

/** What a cause means; an empty text if it is not known here. */
export function explain(word) {
  return WHY[word] ?? "";
}

/** "1012 service restart". */
export function code(number) {
  if (number == null) return "no code";
  return CODES[number] === undefined ? String(number) : `${number} ${CODES[number]}`;
}

/** An end in one line: "client / close, 1000 normal closure". */
export function end({ ended_by: endedBy, cause: word, code: number }) {
  return `${endedBy} / ${word}${number == null ? "" : `, ${code(number)}`}`;
}
