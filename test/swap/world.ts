/**
 * A world for the operations of src/swap: a store with clients, its passphrase in the real keyring,
 * directories for backups and bundles, and a unit that has the store open with any passphrase that
 * fits.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { generateRecoveryKey, type RecoveryKey } from "../../src/bundle/recovery-key.js";
import type { ErrorKind } from "../../src/errors.js";
import { deleteEntry, listEntries, type Slot, setEntry } from "../../src/keys/keyring.js";
import type { PassphraseSource } from "../../src/keys/source.js";
import { type UnlockedStore, unlock } from "../../src/keys/unlock.js";
import { identify, openEncrypted } from "../../src/store/cipher.js";
import { Connection } from "../../src/store/connection.js";
import { testProgram } from "../built.js";
import { property, removeUnits, systemctl, uniqueName, writeUnits } from "../service/units.js";
import { fixturePassphrases, fixtures } from "../store/temporary.js";

export interface Ran<Result = Record<string, never>> {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly result?: Result;
  readonly error?: { readonly kind?: ErrorKind; readonly message: string; readonly hint?: string };
  readonly notices: string[];
  readonly questions: string[];
  readonly stderr: string;
}

export const keyring: PassphraseSource = { kind: "keyring" };

export class World {
  readonly folder: string;
  readonly path: string;
  readonly to: string;
  readonly bundleTo: string;
  readonly unit = uniqueName();
  #hasUnit = false;
  readonly recoveryKey: RecoveryKey;

  constructor(folder: string, recoveryKey: RecoveryKey) {
    this.folder = folder;
    this.path = join(folder, "hivemind-core", "clients.db");
    this.to = join(folder, "backups");
    this.bundleTo = join(folder, "bundles");
    this.recoveryKey = recoveryKey;
  }

  /**
   * Creates a world for a test around a copy of a fixture. The passphrase of an encrypted fixture
   * is in the keyring.
   */
  static async of(fixture: string): Promise<World> {
    const world = await World.make(fixture);
    onTestFinished(() => world.remove());
    return world;
  }

  /** Creates a world that the caller must remove. */
  static async make(fixture: string, inKeyring = true): Promise<World> {
    const folder = await mkdtemp(join(tmpdir(), "hivemind-world-"));
    const world = new World(folder, await generateRecoveryKey());
    for (const name of ["hivemind-core", "backups", "bundles", "config"]) {
      await mkdir(join(folder, name), { mode: 0o700 });
    }
    await cp(join(fixtures, fixture), world.path);
    const passphrase = fixturePassphrases[fixture as keyof typeof fixturePassphrases];
    if (passphrase !== undefined && inKeyring) await setEntry(world.path, "current", passphrase);
    return world;
  }

  /** Creates another world with the same files and the same passphrases in the keyring. */
  async copy(slots: Record<string, string>): Promise<World> {
    const folder = await mkdtemp(join(tmpdir(), "hivemind-world-"));
    await cp(this.folder, folder, { recursive: true });
    const world = new World(folder, this.recoveryKey);
    for (const [slot, secret] of Object.entries(slots)) {
      await setEntry(world.path, slot as Slot, secret);
    }
    return world;
  }

  /**
   * Starts a unit that has the store open. At every start it opens an encrypted store with a
   * passphrase from the keyring, and fails if it cannot.
   */
  async startUnit(more = "", ...hubArguments: string[]): Promise<void> {
    this.#hasUnit = true;
    const script = testProgram("swap/hub");
    const hub = [process.execPath, script, this.path, ...hubArguments];
    const environment = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "HOME"]
      .map((name) => `Environment=${name}=${process.env[name]}`)
      .join("\n");
    await writeUnits({
      [`${this.unit}.service`]: `[Service]\nType=notify\nNotifyAccess=all\n${environment}\nExecStart=${hub.join(" ")}\n${more}\n`,
    });
    await systemctl("start", this.unit);
  }

  get isActive(): Promise<boolean> {
    return property(this.unit, "ActiveState").then((state) => state === "active");
  }

  options(more: object = {}): object {
    return {
      storePath: this.path,
      source: keyring,
      service: { service: "systemd-user", unit: this.unit, storePath: this.path },
      hub: "none",
      bundleTo: this.bundleTo,
      recipients: [this.recoveryKey.recipient],
      settingsSection: { path: join(this.folder, "config", "config.json"), store: undefined },
      ...more,
    };
  }

  get withoutService(): object {
    return { service: { service: "none", unit: "none", storePath: this.path } };
  }

  run<Result>(operation: string, more: object = {}, env: Record<string, string> = {}) {
    return this.drive<Result>([operation, JSON.stringify(this.options(more))], env);
  }

  async drive<Result>(
    args: string[],
    env: Record<string, string> = {},
    before: string[] = [],
  ): Promise<Ran<Result>> {
    const [program = "", ...rest] = [
      ...before,
      process.execPath,
      testProgram("swap/driver"),
      ...args,
    ];
    const child = spawn(program, rest, {
      env: {
        ...process.env,
        XDG_CONFIG_HOME: join(this.folder, "config"),
        XDG_DATA_HOME: this.folder,
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (text) => {
      stdout += text;
    });
    child.stderr.on("data", (text) => {
      stderr += text;
    });
    const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
    const said = stdout === "" ? {} : JSON.parse(stdout);
    return { code, signal, stderr, notices: [], questions: [], ...said };
  }

  settle() {
    return this.drive<string[]>(["settle", this.path]);
  }

  /** Returns every row of the store, with any passphrase that opens it. */
  async rows(): Promise<string[]> {
    return (await find(this.path)).rows;
  }

  /** Returns the files other than the store and the lock. */
  async leftovers(): Promise<string[]> {
    const names = [];
    for (const folder of [join(this.folder, "hivemind-core"), this.bundleTo, this.to]) {
      for (const name of await readdir(folder)) {
        const sidecar = /-(journal|wal|shm)$/.test(name);
        if (sidecar && (await meansNothing(join(folder, name)))) continue;
        if (sidecar || /^\.|journal|partial|superseded/.test(name)) names.push(name);
      }
    }
    return names;
  }

  async slots(): Promise<Record<string, string>> {
    const entries = await listEntries(this.path);
    return Object.fromEntries(entries.map(({ slot, secret }) => [slot, secret]));
  }

  /** Returns the bundles' key_ids. */
  async bundles(): Promise<string[]> {
    return (await readdir(this.bundleTo))
      .map((name) => /^clients\.([0-9a-f]{16})\.bundle\.age$/.exec(name)?.[1])
      .filter((keyId) => keyId !== undefined);
  }

  async remove(): Promise<void> {
    if (this.#hasUnit) await removeUnits(`${this.unit}.service`);
    for (const slot of (await listEntries(this.path)).map((entry) => entry.slot)) {
      await deleteEntry(this.path, slot);
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

/**
 * Returns whether SQLite ignores, and therefore leaves, a sidecar: an empty log, an index without a
 * log, or a journal that was not synced (its first byte is 0). A kill at the wrong moment creates
 * them.
 */
async function meansNothing(path: string): Promise<boolean> {
  const bytes = await readFile(path);
  if (path.endsWith("-journal")) return (bytes[0] ?? 0) === 0;
  if (path.endsWith("-wal")) return bytes.length === 0;
  return stat(path.replace(/-shm$/, "-wal")).then(
    () => false,
    () => true,
  );
}

/**
 * The contents of a store: every row with its types as text, and the passphrase from the keyring
 * that opened it.
 */
export interface Found {
  readonly rows: string[];
  /** Undefined for a store that is not encrypted. */
  readonly unlocked?: Pick<UnlockedStore, "keyId" | "passphrase" | "generation">;
}

/** @param known - opens a store whose passphrase is not in the keyring */
export async function find(path: string, known?: string): Promise<Found> {
  const plain = (await identify(path)).format === "plaintext";
  const unlocked = plain ? undefined : await unlockAnyhow(path, known);
  const connection = unlocked?.connection ?? (await Connection.open(path, { mode: "readwrite" }));
  try {
    const columns = await connection.all<{ name: string }>("PRAGMA table_info(clients)");
    const values = columns.flatMap(({ name }) => [name, `typeof(${name}) AS "type of ${name}"`]);
    const rows = await connection.all(`SELECT ${values} FROM clients ORDER BY client_id`);
    return { rows: rows.map((row) => JSON.stringify(row)), ...(unlocked && { unlocked }) };
  } finally {
    await connection.close();
  }
}

async function unlockAnyhow(path: string, known: string | undefined): Promise<UnlockedStore> {
  try {
    return await unlock(path, keyring, { mode: "readwrite" });
  } catch (error) {
    if (known === undefined) throw error;
    const opened = await openEncrypted(path, known, { mode: "readwrite" });
    return { ...opened, passphrase: known, generation: "current" };
  }
}

/** Returns the result, or throws with the error. */
export function resultOf<Result>(ran: Ran<Result>): Result {
  if (ran.result === undefined) throw new Error(JSON.stringify(ran));
  return ran.result;
}

export async function passphraseFile(world: World, text: string): Promise<string> {
  const path = join(world.folder, `passphrase-${Math.random().toString(36).slice(2)}`);
  await writeFile(path, `${text}\n`, { mode: 0o600 });
  return path;
}
