// A process that makes online backups until it is told to stop, as a program with the library
// might. Prints a line for each, with this process's memory and descriptors.
//
// Usage: node backups.mjs STORE TO BUNDLE-TO RECIPIENT
import { readdirSync } from "node:fs";
import { backup } from "../../dist/backup/backup.js";
import { withOperation } from "../../dist/recovery/recover.js";

const [, , storePath, to, bundleTo, recipient] = process.argv;
let running = true;
process.on("SIGTERM", () => {
  running = false;
});
const reporter = {
  notice() {},
  detail() {},
  confirm: () => Promise.reject(new Error("nobody is asked")),
};
while (running) {
  const result = await withOperation(storePath, reporter, (lock) =>
    backup({
      ...{ lock, source: { kind: "keyring" }, to, bundleTo, recipients: [recipient], online: true },
      service: { service: "none", unit: "none", storePath },
      recoveryCommand: ["false"],
      reporter,
    }),
  );
  const { rss } = process.memoryUsage();
  const descriptors = readdirSync("/proc/self/fd").length;
  process.stdout.write(`${JSON.stringify({ path: result.backup.path, rss, descriptors })}\n`);
}
