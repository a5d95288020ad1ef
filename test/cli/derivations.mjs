// Loaded into the command by --import. Counts the key derivations and prints their number at the
// end.
import { subscribe } from "node:diagnostics_channel";
import { writeFileSync } from "node:fs";

let count = 0;
subscribe("hivemind-sqlcipher:derivation", () => {
  count += 1;
});
process.on("exit", () => writeFileSync(process.env.DERIVATIONS, String(count)));
