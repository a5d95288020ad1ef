// Loaded before the command. Undoes its protection against core dumps at the first step.
import { subscribe } from "node:diagnostics_channel";
import { writeFileSync } from "node:fs";

subscribe("hivemind-sqlcipher:step", () => writeFileSync("/proc/self/coredump_filter", "0x7f"));
