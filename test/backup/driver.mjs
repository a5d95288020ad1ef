// A minimal command: takes the lock, recovers, and makes a backup. Runs from dist/ as a separate
// process, which a test may signal or kill.
//
// Usage: node driver.mjs backup OPTIONS-AS-JSON | settle STORE
import "../known-keys.ts";
import { backup } from "../../dist/backup/backup.js";
import { acquireLock } from "../../dist/operation/lock.js";
import { recover } from "../../dist/recovery/recover.js";

const [, script, verb, argument] = process.argv;
const notices = [];
const controller = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => controller.abort());

async function settled(storePath) {
  const lock = await acquireLock(storePath);
  const { messages, serviceDown, cleanupPending } = await recover(lock);
  notices.push(...messages);
  const left = serviceDown ?? cleanupPending;
  if (left) throw left;
  return lock;
}

async function run() {
  if (verb === "settle") {
    const lock = await settled(argument);
    return lock.release();
  }
  const { storePath, ...options } = JSON.parse(argument);
  const lock = await settled(storePath);
  return backup({
    lock,
    ...options,
    recoveryCommand: [process.execPath, script, "settle", storePath],
    signal: controller.signal,
    reporter: {
      notice: (text) => notices.push(text),
      detail: (text) => process.stderr.write(`${text}\n`),
      confirm: () => Promise.reject(new Error("nobody is asked")),
    },
  });
}

try {
  process.stdout.write(JSON.stringify({ result: await run(), notices }));
} catch (error) {
  const { kind, message, hint, exitCode = 1, stack } = error;
  if (!kind) process.stderr.write(`${stack}\n`);
  process.stdout.write(JSON.stringify({ error: { kind, message, hint }, notices }));
  process.exitCode = exitCode;
}
