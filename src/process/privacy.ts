/** What this process knows and makes stays its user's own. */
import { writeFileSync } from "node:fs";
import { setPrivateUmask } from "./umask.js";

/** From now on nobody else may use what is made, and no passphrase gets out of this process by a signal or a crash. */
export function hardenProcess(): void {
  setPrivateUmask();
  // Node's answer to this signal is to let everybody on this machine debug the process, through a port.
  process.on("SIGUSR1", () => undefined);
  excludeMemoryFromCoreDumps();
}

/**
 * Of this process, and of those that it starts, a core dump holds no memory from now on, whoever writes it: the limit on its
 * size, which a process of Node could not set, is not asked by those that have it piped to them (core(5)).
 */
function excludeMemoryFromCoreDumps(): void {
  if (process.platform !== "linux") return;
  try {
    writeFileSync("/proc/self/coredump_filter", "0");
  } catch {
    // No /proc, or a kernel without core dumps. What is left to do is said in SECURITY.md.
  }
}
