// Agenda on MongoDB: finished jobs removed, no limit to locks and concurrency worth speaking of, and frequent looks.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Agenda } from 'agenda';
import { MongoBackend } from '@agendajs/mongo-backend';

const { MongoClient } = createRequire(import.meta.resolve('@agendajs/mongo-backend'))('mongodb');
const task = JSON.parse(process.argv[2]);
const client = new MongoClient(task.uri, { writeConcern: { w: 'majority', journal: true } });
await client.connect();

const agenda = new Agenda({
  backend: new MongoBackend({ mongo: client.db(task.dbname) }),
  processEvery: 100,
  maxConcurrency: 1000,
  defaultConcurrency: 1000,
  defaultLockLimit: 0,
  removeOnComplete: true,
});

let seen, wanted, first, last, late, enough;
function start(count) {
  [seen, wanted, late] = [0, count, []];
  return new Promise((resolve) => { enough = resolve; });
}
agenda.define('handle', async (job) => {
  const wall = performance.timeOrigin + performance.now();
  last = performance.now();
  if (seen === 0) first = last;
  seen += 1;
  if (job.attrs.data.due) late.push(wall - job.attrs.data.due);
  if (seen === wanted) enough();
});
await agenda.ready;

const began = performance.now();
for (let n = 0; n < task.store; n += 1) await agenda.now('handle', task.body);
const store = task.store / ((performance.now() - began) / 1000);
// Several at once, only so that it is done sooner.
for (let n = task.store; n < task.drain; n += 20) {
  await Promise.all(Array.from({ length: Math.min(20, task.drain - n) }, () => agenda.now('handle', task.body)));
}
let all = start(Math.max(task.drain, task.store));
await agenda.start();
await all;
const drain = (seen - 1) / ((last - first) / 1000);

all = start(task.gaps.length);
let due = Date.now() + 2000;
for (const gap of task.gaps) {
  due += gap * 1000;
  await agenda.schedule(new Date(due), 'handle', { ...task.body, due: Math.round(due) });
}
await all;
const at = join(dirname(fileURLToPath(import.meta.url)), 'node_modules', 'agenda', 'package.json');
const config = 'MongoBackend with w: majority and journal: true, processEvery 100 ms, maxConcurrency and '
  + `defaultConcurrency 1000, no lock limit, removeOnComplete; Node.js ${process.version}`;
console.log(JSON.stringify({ version: JSON.parse(readFileSync(at)).version, config, store, drain, late }));
await agenda.stop();
await client.close();
process.exit(0);
