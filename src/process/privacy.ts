/** Keeps the secrets and new files of this process from other users. */
import { writeFileSync } from "node:fs";

let inheritedUmask: number | undefined;

/**
 * Restricts new files to their owner, and keeps signals and crashes from revealing a passphrase.
 * Called once, at the start of a process that can have a passphrase or key.
 */
export function hardenProcess(): void {
  inheritedUmask = process.umask(0o077);
  // On SIGUSR1, Node opens a debugger port to every user of this machine.
  process.on("SIGUSR1", () => undefined);
  // Excludes memory from the core dumps of this process and its children. The usual limit on the
  // size of core files does not help: Node cannot set it, and the kernel does not apply it to a
  // core piped to a program (core(5)).
  try {
    writeFileSync("/proc/self/coredump_filter", "0");
  } catch {
    // No /proc, or a kernel without core dumps. SECURITY.md describes the operator's options.
  }
}

/** Restores the umask from before {@link hardenProcess}, because the hub inherits it. */
export function restoreUmask(): void {
  if (inheritedUmask !== undefined) process.umask(inheritedUmask);
}

/** Returns a shell program that runs `program` with the umask from before {@link hardenProcess}. */
export function withInheritedUmask(program: string): string {
  return inheritedUmask === undefined ? program : `umask ${inheritedUmask.toString(8)}\n${program}`;
}
