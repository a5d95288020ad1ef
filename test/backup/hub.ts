/**
 * A store, a unit that writes to it continuously, and the job as a separate process: real parts
 * with unique names.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { onTestFinished } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { generateRecoveryKey, type RecoveryKey } from "../../src/bundle/recovery-key.js";
import { type Client, newClient } from "../../src/client/client.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root, testProgram } from "../built.js";
import {
  property,
  removeUnits,
  systemctl,
  uniqueName,
  until,
  writeUnits,
} from "../service/units.js";
import { temporaryFolder } from "../store/temporary.js";

export const testPassphrase = "correct horse battery";

export interface Ran {
  code: number | null;
  signal: NodeJS.Signals | null;
  result?: BackupResult;
  error?: { kind?: string; message: string; hint?: string };
  notices: string[];
  /** The output of --verbose. */
  details: string;
}

export interface Hub {
  folder: string;
  path: string;
  passphraseFile: string;
  to: string;
  bundleTo: string;
  unit: string;
  recoveryKey: RecoveryKey;
}

/**
 * Creates a store of some clients, and directories for its backups. The unit does not exist yet.
 * Stores with the same number of clients are copies of one store: they have the same salt.
 */
export async function hubStore(clients = 100): Promise<Hub> {
  const folder = await temporaryFolder();
  const path = join(folder, "hivemind-core", "clients.db");
  execFileSync("mkdir", ["-m", "700", dirname(path)]);
  await writeFile(path, await storeOf(clients), { mode: 0o600 });
  return hubOf(folder, path, testPassphrase);
}

/** The stores of `hubStore` by their number of clients: each is created once for a test file. */
const stores = new Map<number, Promise<Buffer>>();

function storeOf(clients: number): Promise<Buffer> {
  const store = stores.get(clients) ?? createStore(clients);
  stores.set(clients, store);
  return store;
}

/** Returns clients of about 1 KiB each. */
export function largeClients(count: number): Client[] {
  return Array.from({ length: count }, (_, index) =>
    newClient({ client_id: index + 1, api_key: `key ${index}`, description: "d".repeat(1000) }),
  );
}

async function createStore(clients: number): Promise<Buffer> {
  const path = join(await temporaryFolder(), "clients.db");
  {
    await using store = await ClientStore.create(path, testPassphrase);
    await store.addItems(largeClients(clients));
  }
  return readFile(path);
}

export async function hubOf(folder: string, path: string, passphrase: string): Promise<Hub> {
  const passphraseFile = join(folder, "passphrase");
  await writeFile(passphraseFile, passphrase, { mode: 0o600 });
  return {
    folder,
    path,
    passphraseFile,
    to: join(folder, "backups"),
    bundleTo: join(folder, "bundles"),
    unit: uniqueName(),
    recoveryKey: await generateRecoveryKey(),
  };
}

/** Starts a unit that commits clients continuously. Returns after its first commit. */
export async function startWriter(hub: Hub, more = "", pauseMs = 1): Promise<void> {
  const command = [
    process.execPath,
    testProgram("backup/writer"),
    ...[hub.path, hub.passphraseFile, logOf(hub), String(pauseMs)],
  ];
  await startUnit(hub, `Type=notify\nNotifyAccess=all\nExecStart=${command.join(" ")}\n${more}`);
  await until(async () => (await committed(hub)).length > 20);
}

export async function startUnit(hub: Hub, service: string): Promise<void> {
  await writeUnits({ [`${hub.unit}.service`]: `[Service]\n${service}\n` });
  onTestFinished(() => removeUnits(`${hub.unit}.service`));
  await systemctl("start", hub.unit);
}

export const logOf = (hub: Hub) => join(hub.folder, "committed");

/** Returns the ids of the clients whose commit the writer has recorded. */
export async function committed(hub: Hub): Promise<number[]> {
  const text = await readFile(logOf(hub), "utf8").catch(() => "");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter(Boolean)
    .map(Number);
}

export const isActive = async (hub: Hub) => (await property(hub.unit, "ActiveState")) === "active";

export interface JobOptions {
  to?: string;
  bundleTo?: string;
  service?: Record<string, unknown>;
  online?: boolean;
  recipients?: string[];
  bundlePassphrase?: string;
  source?: unknown;
  /** Kills the job, or sends another signal, at a step. */
  at?: { step: string; signal?: NodeJS.Signals };
  env?: Record<string, string>;
}

export function startJob(
  hub: Hub,
  options: JobOptions = {},
): { child: ChildProcess; ran: Promise<Ran> } {
  const { at, env = {}, service = {}, ...rest } = options;
  const request = {
    storePath: hub.path,
    source: { kind: "file", path: hub.passphraseFile },
    to: hub.to,
    bundleTo: hub.bundleTo,
    recipients: [hub.recoveryKey.recipient],
    ...rest,
    service: { service: "systemd-user", unit: hub.unit, storePath: hub.path, ...service },
  };
  return run(["backup", JSON.stringify(request)], {
    ...env,
    ...(at && {
      NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
      HIVEMIND_TEST_STEP: at.step,
      HIVEMIND_TEST_SIGNAL: at.signal ?? "SIGKILL",
    }),
  });
}

export const runJob = (hub: Hub, options: JobOptions = {}) => startJob(hub, options).ran;

/** Recovers, as every command does first. */
export const settle = (hub: Hub) => run(["settle", hub.path], {}).ran;

function run(args: string[], env: Record<string, string>) {
  const child = spawn(process.execPath, [testProgram("backup/driver"), ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let details = "";
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    details += chunk;
  });
  const ran = once(child, "close").then(
    ([code, signal]): Ran => ({
      code,
      signal,
      details,
      notices: [],
      ...(stdout === "" ? {} : JSON.parse(stdout)),
    }),
  );
  return { child, ran };
}

/** Returns all files below a directory, by path; empty if it does not exist. */
export function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
  } catch {
    return [];
  }
}

/** Returns the files that the job must not leave: staged files and a journal. */
export function leftovers(hub: Hub): string[] {
  return filesIn(hub.folder).filter(
    (name) => name.endsWith(".partial") || name.endsWith(".journal.json"),
  );
}

/** Returns the ids in a store or a finished backup. */
export async function idsIn(path: string, passphrase = testPassphrase): Promise<Set<number>> {
  const { connection } = await openEncrypted(path, passphrase, {
    mode: "readonly",
    immutable: true,
  });
  try {
    const rows = await connection.all<{ client_id: number }>("SELECT client_id FROM clients");
    return new Set(rows.map((row) => row.client_id));
  } finally {
    await connection.close();
  }
}

/** Returns the result, or throws with the error. */
export function resultOf(ran: Ran): BackupResult {
  if (!ran.result) throw new Error(`${JSON.stringify(ran)}`);
  return ran.result;
}
