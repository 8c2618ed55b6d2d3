#!/usr/bin/env node
// Drives pg-boss through its public API: createQueue, send, insert, work.

import { database, drive, load } from "./common.mjs";

const { PgBoss } = await load("pg-boss");

const QUEUE = "noop";
const PENDING =
  "select count(*)::int as tasks from pgboss.job where name = $1 and state < 'completed'";
const STOP_MS = 5_000;
// A producer or an observer has no business with the schema, with upkeep or with schedules.
const BYSTANDER = { migrate: false, supervise: false, schedule: false };

// Chosen by a sweep: batches of 1,000 beat 100 by far and 500 by little, and loops side by side in
// one process win nothing. While batches come full it does not wait between them.
const FAST = { batchSize: 1_000, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
// Groups hold each org to so many tasks at a time, over all processes. A batch of that size comes
// full while any org has work, so that no loop waits; two loops, so that one always sees past the org
// that the other has filled. With 10 it was a third as fast; with 100 no faster, and newcomers waited.
const FAIR = {
  groupConcurrency: 50,
  batchSize: 50,
  localConcurrency: 2,
  burstWhenBatchFull: true,
  pollingIntervalSeconds: 0.5,
};

async function started(options) {
  const boss = new PgBoss({ connectionString: database(), ...options });
  boss.on("error", (error) => console.error(`pg-boss: ${error.message}`));
  return boss.start();
}

async function setup() {
  const boss = await started({ supervise: false, schedule: false });
  await boss.createQueue(QUEUE);
  await boss.stop();
}

async function producer({ clients, fair }) {
  const boss = await started({ ...BYSTANDER, max: clients });
  const options = (task) => (fair ? { group: { id: task.org } } : {});
  return {
    warm: () => boss.getDb().executeSql("select pg_sleep(0.05)"),
    send: (task) => boss.send(QUEUE, task, options(task)),
    sendMany: (tasks) =>
      boss.insert(
        QUEUE,
        tasks.map((task) => ({ data: task, ...options(task) })),
      ),
    close: () => boss.stop(),
  };
}

async function worker({ fast, fair }, note) {
  const boss = await started(fast ? { useListenNotify: true } : {});
  // Woken by each job rather than by the clock; the default is to poll every 2 s.
  if (fast) await boss.updateQueue(QUEUE, { notify: true });
  const options = fair ? FAIR : fast ? FAST : {};
  await boss.work(QUEUE, options, async (jobs) => {
    for (const job of jobs) note(job.data);
  });
  return () => boss.stop({ timeout: STOP_MS });
}

async function pending() {
  const boss = await started(BYSTANDER);
  const { rows } = await boss.getDb().executeSql(PENDING, [QUEUE]);
  await boss.stop();
  return rows[0].tasks;
}

await drive({
  name: "pg-boss",
  fair: true,
  setup,
  producer,
  worker,
  pending,
});
