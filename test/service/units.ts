/** Real units with unique names in the private session's user manager. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";

export const exec = promisify(execFile);

/** Runs `systemctl --user` and returns what it printed. */
export async function systemctl(...args: string[]): Promise<string> {
  const { stdout } = await exec("systemctl", ["--user", ...args]);
  return stdout.trim();
}

/** Returns the value of a property of a unit. */
export function property(unit: string, name: string): Promise<string> {
  return systemctl("show", `--property=${name}`, "--value", unit);
}

export function uniqueName(): string {
  return `hivemind-test-${randomBytes(4).toString("hex")}`;
}

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), "hivemind-service-"));
}

/** Writes units, given as file name and text, and reloads the manager. */
export async function writeUnits(units: Record<string, string>): Promise<void> {
  const folder = join(process.env.HOME ?? "", ".config/systemd/user");
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(units)) writeFileSync(join(folder, name), text);
  await systemctl("daemon-reload");
}

/** Stops units and removes their files. The manager forgets them when it is reloaded next. */
export async function removeUnits(...names: string[]): Promise<void> {
  await systemctl("stop", ...names).catch(() => {});
  const folder = join(process.env.HOME ?? "", ".config/systemd/user");
  for (const name of names) await rm(join(folder, name), { force: true });
  await systemctl("reset-failed", ...names).catch(() => {});
}

/** Returns a unit with a file open until it is stopped. */
export function holding(path: string, more = ""): string {
  // Ready once the file is open, not when the shell starts.
  return `[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'exec 3<"${path}"; systemd-notify --ready; exec sleep infinity'\n${more}`;
}

/**
 * Waits until a condition holds, at most until the test's time limit. Most conditions start a
 * process.
 */
export async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await delay(50);
}
