// What the drivers of the peers on Node.js share: the command line, the clients, the report.
// The contract is the docstring of benchmarks/peers/__init__.py.

import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

// The peers are installed outside the sources, so they are not found by their names alone.
const INSTALLED = fileURLToPath(new URL("../../../.cache/peers/node/", import.meta.url));
const resolver = createRequire(INSTALLED);

const REPORT_EVERY_MS = 100;
// A peer that has not ended by then never will: its report is closed and the process is left.
const STOP_WITHIN_MS = 10_000;
// Tasks of one bulk call: more gained neither peer anything. The bytes bound it where payloads are
// large.
const BULK_TASKS = 1_000;
const BULK_BYTES = 16_000_000;
const TASK_BYTES = 200;

// The options of the command line; `fair` only for a peer that has a fairness of its own.
const OPTIONS = {
  tasks: { type: "string" },
  orgs: { type: "string", default: "1" },
  org: { type: "string" },
  clients: { type: "string", default: "1" },
  bulk: { type: "boolean", default: false },
  batch: { type: "string", default: "0" },
  "gap-ms": { type: "string", default: "0" },
  pad: { type: "string", default: "0" },
  report: { type: "string" },
  fast: { type: "boolean", default: false },
  trace: { type: "boolean", default: false },
};

/** Import an installed peer, whatever the working directory is. */
export function load(name) {
  return import(pathToFileURL(resolver.resolve(name)).href);
}

/** Return the connection URI of the database. */
export function database() {
  const uri = process.env.DATABASE_URL;
  if (!uri) throw new Error("DATABASE_URL is not set");
  return uri;
}

/** Return CLOCK_MONOTONIC in nanoseconds; a double holds it exactly for 104 days of uptime. */
function now() {
  return Number(process.hrtime.bigint());
}

/**
 * Run the verb of the command line.
 *
 * `peer` has `name`, `fair` (whether it takes that option), `setup()`, `pending()`,
 * `producer({ clients, fair })` with the methods `warm` (called once for each client at the same
 * time, to connect it), `send`, `sendMany` and `close`, and `worker({ fast, fair }, started, fail)`,
 * which returns how to stop once it is ready to take tasks.
 */
export async function drive(peer) {
  try {
    const fair = peer.fair ? { fair: { type: "boolean", default: false } } : {};
    const { values, positionals } = parseArgs({
      options: { ...OPTIONS, ...fair },
      allowPositionals: true,
    });
    const verb = VERBS[positionals[0]];
    if (!verb) throw new Error(`the verb is one of ${Object.keys(VERBS).join(", ")}`);
    const answer = await verb(peer, values);
    if (answer) writeSync(1, JSON.stringify(answer) + "\n");
    process.exit(0);
  } catch (error) {
    writeSync(2, `${peer.name}: ${error?.message || error?.code || error}\n`);
    process.exit(1);
  }
}

const VERBS = {
  version: async (peer) => ({
    version: `${peer.name} ${installedVersion(peer.name)} (Node.js ${process.versions.node})`,
  }),
  setup: (peer) => peer.setup(),
  enqueue,
  work,
  pending: async (peer) => ({ pending: await peer.pending() }),
};

function installedVersion(name) {
  return JSON.parse(readFileSync(`${INSTALLED}node_modules/${name}/package.json`, "utf8")).version;
}

async function enqueue(peer, values) {
  const load = loadOf(values);
  const size = load.bulk ? load.batch || bulkOf(load.pad) : 1;
  const producer = await peer.producer({ clients: load.clients, fair: values.fair });
  const clients = range(0, load.clients);
  await Promise.all(clients.map(() => producer.warm()));
  const began = now();
  const returned = [];
  const note = (first) => returned.push([first, now()]);
  await Promise.all(clients.map((client) => send(producer, load, client, size, began, note)));
  const seconds = (now() - began) / 1e9;
  await producer.close();
  const inOrder = returned.sort(([one], [other]) => one - other).map(([, at]) => at);
  return { seconds, returned_ns: load.gap ? inOrder : [] };
}

function loadOf(values) {
  const whole = (name, least) => {
    const value = Number(values[name]);
    if (Number.isSafeInteger(value) && value >= least) return value;
    throw new Error(`--${name} takes a whole number of at least ${least}`);
  };
  const gap = Number(values["gap-ms"]);
  if (!(gap >= 0)) throw new Error("--gap-ms takes milliseconds");
  return {
    tasks: whole("tasks", 0),
    orgs: whole("orgs", 1),
    org: values.org,
    clients: whole("clients", 1),
    bulk: values.bulk,
    batch: whole("batch", 0),
    gap,
    pad: "x".repeat(whole("pad", 0)),
  };
}

function bulkOf(pad) {
  return Math.max(1, Math.min(BULK_TASKS, Math.floor(BULK_BYTES / (pad.length + TASK_BYTES))));
}

/** Make the calls of one client, `size` tasks each, each when it is due; a late one at once. */
/** Make the calls of one client; `returned` is told the first task of each when it returns. */
async function send(producer, load, client, size, began, returned) {
  const calls = Math.ceil(load.tasks / size);
  for (let call = client; call < calls; call += load.clients) {
    const early = load.gap * call - (now() - began) / 1e6;
    if (early > 0) await sleep(early);
    const sent = now();
    const tasks = range(call * size, Math.min((call + 1) * size, load.tasks)).map((n) => ({
      org: load.org ?? `org${n % load.orgs}`,
      n,
      sent_ns: sent,
      pad: load.pad,
    }));
    if (load.bulk) await producer.sendMany(tasks);
    else await producer.send(tasks[0]);
    returned(call * size);
  }
}

function range(from, to) {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

async function work(peer, values) {
  if (!values.report) throw new Error("work needs --report FILE");
  const terminated = signalled();
  const report = new Report(values.report, values.trace);
  let fail;
  const failed = new Promise((_, reject) => (fail = reject));
  try {
    const starting = peer.worker(values, (started) => report.started(started), fail);
    const stop = await Promise.race([starting, failed, terminated]);
    if (stop === undefined) return;
    report.ready();
    await Promise.race([terminated, failed]);
    await Promise.race([stop(), overdue()]);
  } finally {
    report.end();
  }
}

function signalled() {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => resolve());
  });
}

async function overdue() {
  await sleep(STOP_WITHIN_MS);
  throw new Error(`did not stop within ${STOP_WITHIN_MS / 1000} s`);
}

/** The file of JSON lines that tells how far a worker is. */
class Report {
  #file;
  #timer;
  #handled = 0;
  #told = 0;
  #first = null;
  #last = null;
  #starts;

  constructor(path, trace) {
    this.#file = openSync(path, "w");
    this.#starts = trace ? [] : null;
  }

  ready() {
    this.#write({ ready: true });
    this.#timer = setInterval(() => this.#tell(), REPORT_EVERY_MS);
  }

  /** Note that a handler was started. */
  started({ org, n, sent_ns }) {
    this.#last = now();
    this.#first ??= this.#last;
    this.#handled++;
    this.#starts?.push([org, n, this.#last, sent_ns]);
  }

  end() {
    clearInterval(this.#timer);
    this.#write(this.#starts ? { ...this.#progress(), starts: this.#starts } : this.#progress());
    closeSync(this.#file);
  }

  #tell() {
    if (this.#handled === this.#told) return;
    this.#told = this.#handled;
    this.#write(this.#progress());
  }

  #progress() {
    return { handled: this.#handled, first_ns: this.#first, last_ns: this.#last };
  }

  // Buffers nothing: a line is in the file when the call returns.
  #write(line) {
    const text = Buffer.from(JSON.stringify(line) + "\n");
    for (let from = 0; from < text.length; ) from += writeSync(this.#file, text, from);
  }
}
