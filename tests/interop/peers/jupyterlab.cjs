// JupyterLab's page in headless Chromium, used as a person would use it: by clicks and keys.
'use strict';
const { chromium } = require('playwright-core');
const { serve, sleep } = require('./peer.cjs');

const PATIENCE = 30_000;

// Runs in the page, before its own scripts: keeps what becomes of its WebSockets.
function watch() {
  window.sockets = [];
  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      const kept = { path: new URL(this.url).pathname, open: false, protocol: null, messages: 0, closed: null };
      this.kept = kept;
      window.sockets.push(kept);
      this.addEventListener('open', () => Object.assign(kept, { open: true, protocol: this.protocol }));
      this.addEventListener('message', () => kept.messages++);
      const closed = ({ code, reason }) => Object.assign(kept, { open: false, closed: [code, reason] });
      this.addEventListener('close', closed);
    }

    send(data) {
      this.kept.messages++;
      super.send(data);
    }
  };
}

// Reads anew until it is good; fails with what was read last.
async function until(what, read, good) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const found = await read();
    if (good(found)) return found;
    if (Date.now() > deadline) throw new Error(`${what}: ${JSON.stringify(found).slice(-200)}`);
    await sleep(50);
  }
}

class Lab {
  constructor(page) {
    this.page = page;
    this.complaints = [];
    page.on('console', (said) => said.type() === 'error' && this.complaints.push(said.text()));
    page.on('pageerror', (error) => this.complaints.push(error.message));
    page.on('requestfailed', (request) => this.complaints.push(`${request.url()} ${request.failure().errorText}`));
    this.cell = page.locator('.jp-Notebook .jp-CodeCell').last();
  }

  async open({ url }) {
    await this.page.goto(url);
    await this.started();
    await this.page.locator('.jp-LauncherCard').first().waitFor();
  }

  // Opens the page anew, which finds its notebook and its kernel again.
  async reload() {
    await this.page.reload();
    await this.started();
    await this.tab('.ipynb');
    await this.kernel();
  }

  // What is clicked before that may be done twice, or not at all.
  async started() {
    await this.page.locator('#jupyterlab-splash').waitFor({ state: 'detached' });
    await this.page.waitForLoadState('networkidle');
  }

  async notebook() {
    await this.page.locator('.jp-LauncherCard[data-category="Notebook"]').click();
    await this.kernel();
  }

  // A cell that is run while the page still gets its kernel makes the page get another one. (This is no sign
  // of a connection that came back: after that the page says "Unknown" until a cell is run.)
  kernel() {
    return this.page.locator('#jp-main-statusbar', { hasText: '(ipykernel) | Idle' }).waitFor();
  }

  // Runs code in the notebook's last cell. It may ask for one answer. Returns the output.
  async run({ code, answer, want }) {
    await this.tab('.ipynb');
    const number = await this.page.locator('.jp-Notebook .jp-CodeCell').count() - 1;
    await this.cell.locator('.cm-content').click();
    await this.page.keyboard.insertText(code);
    await this.page.keyboard.press('Shift+Enter');
    if (answer !== undefined) {
      await this.page.locator('.jp-Stdin-input').fill(answer);
      await this.page.locator('.jp-Stdin-input').press('Enter');
    }
    const output = this.page.locator('.jp-Notebook .jp-CodeCell').nth(number).locator('.jp-OutputArea-output');
    const read = async () => (await output.allInnerTexts()).join('');
    return until('output', read, (text) => text.includes(want));
  }

  // The width of the last picture, once it is there whole.
  picture() {
    const width = (images) => images.at(-1)?.complete ? images.at(-1).naturalWidth : 0;
    return until('picture', () => this.page.locator('.jp-OutputArea-output img').evaluateAll(width), Boolean);
  }

  async terminal() {
    await this.page.locator('.lm-DockPanel-tabBar .lm-TabBar-addButton:visible').click();
    await this.page.locator('.jp-LauncherCard', { hasText: 'Terminal' }).click();
    await until('prompt', () => this.screen(), (text) => text.includes('#') || text.includes('$'));
  }

  // Types a line into the terminal and waits for output on its screen.
  async type({ line, want }) {
    await this.tab('Terminal');
    await this.page.locator('.jp-Terminal .xterm-helper-textarea').focus();
    await this.page.keyboard.type(line);
    await this.page.keyboard.press('Enter');
    if (want) await until('terminal', () => this.screen(), (text) => text.includes(want));
  }

  // The terminal is drawn on a canvas; its text is in the tree for screen readers.
  async screen() {
    const text = await this.page.locator('.jp-Terminal .xterm-accessibility-tree').allInnerTexts();
    return text.join('').replace(/\s+/g, ' ');
  }

  tab(name) {
    return this.page.locator('.lm-DockPanel-tabBar .lm-TabBar-tab', { hasText: name }).click();
  }

  sockets() {
    return this.page.evaluate(() => window.sockets);
  }
}

// playwright's messages have many lines and colours: the first ones tell the cause.
function fail({ message }) {
  throw new Error(message.replace(/\x1b\[\d+m/g, '').split('\n').slice(0, 4).join(' '));
}

const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update',
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost'];

async function main() {
  const [executablePath, key] = process.argv.slice(2);
  const args = [...flags, `--ignore-certificate-errors-spki-list=${key}`];
  const browser = await chromium.launch({ executablePath, args });
  const page = await browser.newPage();
  await page.addInitScript(watch);
  page.setDefaultTimeout(PATIENCE);
  // A notice that the server could not be reached stays until it is clicked away.
  const notice = page.locator('.jp-Dialog');
  await page.addLocatorHandler(notice, () => notice.locator('.jp-mod-accept').click());
  const lab = new Lab(page);
  const verbs = { complaints: () => lab.complaints.slice(-10), version: () => browser.version() };
  for (const verb of ['open', 'reload', 'notebook', 'run', 'picture', 'terminal', 'type', 'sockets'])
    verbs[verb] = (args) => lab[verb](args).catch(fail);
  serve({}, verbs);
}

main();
