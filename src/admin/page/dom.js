// Owns the making and changing of elements. Strings become text nodes and attributes, never markup: whatever a peer
// wrote into a path, a header or a reason stays text.

export const byId = (id) => document.getElementById(id);

/**
 * A new element. `attributes` are set by name; functions become listeners of the event of that name; null and false
 * are left out. Children are nodes or texts; null ones are left out.
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** Sets a text, and touches nothing if it is the same: what was selected stays so. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute likewise; null and false take it away. */
export function mark(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Sets the length of a bar. By the CSSOM: a style attribute would be against the page's policy. */
export function stretch(bar, share) {
  const width = `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(1)}%`;
  if (bar.style.width !== width) bar.style.width = width;
}

/** What stands in each parent by `keyed`. */
const shown = new WeakMap();

/**
 * Makes the children of `parent` stand for `items`, in their order. `create(item)` gives { node, show(item) }; a
 * child stays for as long as its key is there, so that focus, selection and scrolling survive a refresh.
 */
export function keyed(parent, items, keyOf, create) {
  const before = shown.get(parent) ?? new Map();
  const after = new Map();
  const focused = document.activeElement;
  for (const item of items) {
    const key = keyOf(item);
    const child = before.get(key) ?? create(item);
    child.show(item);
    after.set(key, child);
  }
  for (const [key, child] of before) {
    if (!after.has(key)) child.node.remove();
  }
  let place = parent.firstElementChild;
  for (const { node } of after.values()) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  shown.set(parent, after);
  // A node that is moved loses the focus.
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** Fills a select with [value, text] pairs, keeping what is chosen if it is still there. */
export function options(select, pairs) {
  const wanted = JSON.stringify(pairs);
  if (select.dataset.options === wanted) return;
  const chosen = select.value;
  select.dataset.options = wanted;
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}
