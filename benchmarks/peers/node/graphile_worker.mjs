#!/usr/bin/env node
// Drives graphile-worker through its public API: makeWorkerUtils, addJob, addJobs, run.

import { EventEmitter, once } from "node:events";

import { database, drive, load } from "./common.mjs";

// A line on the console for each task done is of no use here; its own benchmarks turn it off too.
process.env.NO_LOG_SUCCESS = "1";
const { Logger, WorkerPreset, makeWorkerUtils, run } = await load("graphile-worker");
const { default: pg } = await load("pg");

const TASK = "noop";
// Chosen by a sweep. It gains from 100 to 1,000 tasks per fetch and no further; the concurrency of
// handlers that wait for nothing, and delays of 0 to 5 ms, change nothing that can be told apart. A
// refetch delay spares the database of many idle processes at the price of latency: left out.
const FAST = {
  concurrentJobs: 10,
  localQueue: { size: 1_000 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};

// Errors are for people; everything below them is dropped.
const logger = new Logger(() => (level, message) => {
  if (level === "error") console.error(message);
});

function utils(options) {
  return makeWorkerUtils({ logger, ...options });
}

async function setup() {
  const workerUtils = await utils({ connectionString: database() });
  await workerUtils.migrate();
  await workerUtils.release();
}

async function producer({ clients }) {
  const pgPool = new pg.Pool({ connectionString: database(), max: clients });
  pgPool.on("error", (error) => console.error(error.message));
  pgPool.on("connect", () => {});
  const workerUtils = await utils({ pgPool });
  return {
    warm: () => workerUtils.withPgClient((client) => client.query("select pg_sleep(0.05)")),
    send: (task) => workerUtils.addJob(TASK, task),
    sendMany: (tasks) =>
      workerUtils.addJobs(tasks.map((task) => ({ identifier: TASK, payload: task }))),
    close: async () => {
      await workerUtils.release();
      await pgPool.end();
    },
  };
}

async function worker({ fast }, started, fail) {
  const events = new EventEmitter();
  const listening = once(events, "pool:listen:success");
  const runner = await run(
    {
      preset: {
        extends: [WorkerPreset],
        worker: { connectionString: database(), ...(fast ? FAST : {}) },
      },
      events,
      logger,
      noHandleSignals: true,
      parsedCronItems: [],
    },
    { [TASK]: (task) => started(task) },
    [],
  );
  runner.promise.catch(fail);
  const [{ client }] = await listening;
  // The event comes as LISTEN is sent: a query after it on that connection returns after it.
  await client.query("select 1");
  return () => runner.stop();
}

async function pending() {
  const workerUtils = await utils({ connectionString: database() });
  const { rows } = await workerUtils.withPgClient((client) =>
    client.query("select count(*)::int as tasks from graphile_worker.jobs"),
  );
  await workerUtils.release();
  return rows[0].tasks;
}

await drive({
  name: "graphile-worker",
  setup,
  producer,
  worker,
  pending,
});
