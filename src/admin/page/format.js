// Owns how values are written for people: every number with its unit, every time in UTC as in the access log.

const WHOLE = new Intl.NumberFormat("en");
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A missing value. */
export const NONE = "–";

/** 12345 as "12,345". */
export function count(number) {
  return number == null ? NONE : WHOLE.format(number);
}

/** A part of a whole as "34 %"; small parts keep a digit, because 0 % would say "none". */
export function percent(part, whole) {
  if (!whole) return "0 %";
  const value = (100 * part) / whole;
  if (value > 0 && value < 0.1) return "<0.1 %";
  return `${value < 10 ? trim(value.toFixed(1)) : Math.round(value)} %`;
}

/** Bytes, in decimal units: "812 B", "1.24 MB". */
export function bytes(number) {
  if (number == null) return NONE;
  let value = number;
  let unit = 0;
  while (value >= 999.5 && unit < BYTES.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return unit === 0 ? `${value} B` : `${digits(value)} ${BYTES[unit]}`;
}
const BYTES = ["B", "kB", "MB", "GB", "TB", "PB"];

/** A span of seconds with its two largest units: "0.4 s", "12 s", "3 min 20 s", "2 h 4 min", "3 d 5 h". */
export function span(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.floor(seconds);
  if (whole < MINUTE) return `${whole} s`;
  if (whole < HOUR) return pair(whole, MINUTE, "min", 1, "s");
  if (whole < DAY) return pair(whole, HOUR, "h", MINUTE, "min");
  return pair(whole, DAY, "d", HOUR, "h");
}

function pair(seconds, large, largeUnit, small, smallUnit) {
  const rest = Math.floor((seconds % large) / small);
  const first = `${Math.floor(seconds / large)} ${largeUnit}`;
  return rest === 0 ? first : `${first} ${rest} ${smallUnit}`;
}

/** A round-trip time: "350 µs", "12.4 ms", "1.20 s". */
export function trip(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${digits(seconds * 1e3)} ms`;
  return `${digits(seconds)} s`;
}

/** The edge of a bucket, exactly: "2.5 ms", "60 s", "15 min", "2 h". */
export function edge(seconds) {
  if (seconds < 0.001) return `${trim((seconds * 1e6).toFixed(1))} µs`;
  if (seconds < 1) return `${trim((seconds * 1e3).toFixed(2))} ms`;
  if (seconds >= 2 * HOUR && seconds % HOUR === 0) return `${seconds / HOUR} h`;
  if (seconds >= 10 * MINUTE && seconds % MINUTE === 0) return `${seconds / MINUTE} min`;
  return `${trim(seconds.toFixed(2))} s`;
}

/** A time of day in UTC: "14:02:11". */
export function clock(time) {
  return time == null ? NONE : new Date(time).toISOString().slice(11, 19);
}

/** The same to the millisecond. */
export function exactClock(time) {
  return new Date(time).toISOString().slice(11, 23);
}

/** A moment: "2026-11-21 14:02:11 UTC". */
export function moment(time) {
  return time == null ? NONE : `${new Date(time).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** The day of a moment: "2026-11-21". */
export function day(time) {
  return new Date(time).toISOString().slice(0, 10);
}

/** "1 connection", "2 connections". */
export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** Three significant digits. */
function digits(value) {
  if (value < 9.995) return value.toFixed(2);
  return value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

/** Without the zeros that say nothing. */
function trim(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}
