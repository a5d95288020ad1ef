// A command in miniature: takes the lock, settles what was left, and makes a backup. It runs from dist/ as a process of
// its own, which a test may signal or kill. Usage: node driver.mjs backup OPTIONS-AS-JSON | settle STORE
import { backup } from "../../dist/backup/backup.js";
import { recoverBackup } from "../../dist/backup/recover.js";
import { Journal } from "../../dist/operation/journal.js";
import { acquireLock } from "../../dist/operation/lock.js";

const [, script, verb, argument] = process.argv;
const notices = [];
const controller = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => controller.abort());

async function settled(storePath) {
  const lock = await acquireLock(storePath);
  const journal = await Journal.read(storePath);
  if (journal) {
    const { messages, cleanupPending } = await recoverBackup(journal, storePath);
    notices.push(...messages);
    if (cleanupPending) throw cleanupPending;
  }
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
