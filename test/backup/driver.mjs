// A minimal command: takes the lock, recovers, and makes a backup. Runs from dist/ as a separate
// process, which a test may signal or kill.
//
// Usage: node driver.mjs backup OPTIONS-AS-JSON | settle STORE
import "../known-keys.ts";
import { backup } from "../../dist/backup/backup.js";
import { withOperation } from "../../dist/recovery/recover.js";

const [, script, verb, argument] = process.argv;
const notices = [];
const controller = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => controller.abort());

const reporter = {
  notice: (text) => notices.push(text),
  detail: (text) => process.stderr.write(`${text}\n`),
  confirm: () => Promise.reject(new Error("nobody is asked")),
};

async function run() {
  if (verb === "settle") return withOperation(argument, reporter, () => undefined);
  const { storePath, ...options } = JSON.parse(argument);
  return withOperation(storePath, reporter, (lock) =>
    backup({
      lock,
      ...options,
      recoveryCommand: [process.execPath, script, "settle", storePath],
      signal: controller.signal,
      reporter,
    }),
  );
}

try {
  process.stdout.write(JSON.stringify({ result: await run(), notices }));
} catch (error) {
  const { kind, message, hint, exitCode = 1, stack } = error;
  if (!kind) process.stderr.write(`${stack}\n`);
  process.stdout.write(JSON.stringify({ error: { kind, message, hint }, notices }));
  process.exitCode = exitCode;
}
