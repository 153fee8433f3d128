// Owns what interrupts the operator: questions before something is done, the token, and notices of what was done.

import { byId, make, put } from "./dom.js";

/** Notices of success leave by themselves after this time, in milliseconds. */
const LEAVE = 12_000;

/**
 * Asks before something is done, and does it: `act(values)` runs with the fields' values; if it throws, the dialog
 * stays and says why. Fields are { name, label, hint, value, type, choices, check(value) -> text or null }.
 * True: it was done.
 */
export function confirm({ title, text, fields = [], action, isGrave = false, act }) {
  const dialog = byId("confirm");
  put(byId("confirm-title"), title);
  put(byId("confirm-text"), text);
  put(byId("confirm-do"), action);
  byId("confirm-do").classList.toggle("grave", isGrave);
  const inputs = fields.map(field);
  byId("confirm-fields").replaceChildren(...inputs.map((input) => input.node));
  return converse(dialog, async () => {
    const values = Object.fromEntries(inputs.map(({ name, input }) => [name, input.value.trim()]));
    for (const { check, input, name } of inputs) {
      const complaint = check?.(values[name]);
      if (complaint) {
        input.focus();
        throw new Error(complaint);
      }
    }
    await act(values);
  });
}

/** One labelled input of the confirmation. */
function field({ name, label, hint, value = "", type = "text", choices, check, attributes = {} }) {
  const id = `confirm-${name}`;
  const shared = { id, name, "aria-describedby": hint ? `${id}-hint` : null, autocomplete: "off", ...attributes };
  const list = choices && make("datalist", { id: `${id}-choices` },
    ...choices.map(([choice, text]) => make("option", { value: choice, label: text })));
  const input = make("input", { ...shared, type, value, list: list ? list.id : null });
  const note = hint ? make("small", { id: `${id}-hint` }, hint) : null;
  return { name, check, input, node: make("div", { class: "field" }, make("label", { for: id }, label), input, list ?? null, note) };
}

/** Asks for the token of the admin endpoint until there is one. */
export async function askForToken(isWrong) {
  const dialog = byId("token");
  const input = byId("token-input");
  put(byId("token-wrong"), isWrong ? "This token was not accepted." : "");
  input.value = "";
  let token = "";
  while (token === "") {
    // Without one there is nothing to show: leaving by Escape asks again.
    await converse(dialog, async () => { token = input.value.trim(); });
  }
  return token;
}

/** Shows a dialog until it is left (false) or `submit` has run through (true). */
function converse(dialog, submit) {
  const form = dialog.querySelector("form");
  const complaint = form.querySelector("[data-complaint]");
  if (complaint) put(complaint, "");
  let isBusy = false;
  return new Promise((done) => {
    const left = new AbortController();
    const finish = (result) => {
      left.abort();
      if (dialog.open) dialog.close();
      done(result);
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      // A second Enter does nothing twice.
      if (isBusy) return;
      isBusy = true;
      try {
        await submit();
        finish(true);
      } catch (error) {
        if (complaint) put(complaint, error.message);
      } finally {
        isBusy = false;
      }
    }, { signal: left.signal });
    form.querySelector("[data-leave]")?.addEventListener("click", () => finish(false), { signal: left.signal });
    // Escape: at once, because `close` comes later, when the dialog may be open again.
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      finish(false);
    }, { signal: left.signal });
    dialog.addEventListener("close", () => finish(false), { signal: left.signal });
    dialog.showModal();
  });
}

/** Says what was done; failures stay until they are dismissed. */
export function notify(text, isFailure = false) {
  const notice = make("div", { class: isFailure ? "notice bad" : "notice" },
    make("span", {}, text),
    make("button", { type: "button", class: "quiet", "aria-label": "Dismiss this notice", click: () => notice.remove() }, "✕"));
  byId("notices").append(notice);
  if (!isFailure) setTimeout(() => notice.remove(), LEAVE);
}
