// Copies backups to targets, as a separate process that a test may kill. Runs from dist/.
//
// Usage: node driver.mjs OPTIONS-AS-JSON
import { copyBackups } from "../../dist/copies/copy.js";
import { parseTarget } from "../../dist/copies/plan.js";

const options = JSON.parse(process.argv[2]);
const reports = await copyBackups({
  ...options,
  backupTargets: options.backupTargets.map((text) => parseTarget(text)),
  bundleTargets: options.bundleTargets.map((text) => parseTarget(text)),
  reporter: { notice: () => undefined, detail: () => undefined, confirm: () => undefined },
});
process.stdout.write(JSON.stringify(reports));
