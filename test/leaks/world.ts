/** A store with known secrets, so that tests can search for them. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bech32 } from "@scure/base";
import { onTestFinished } from "vitest";
import { generateRecoveryKey, type RecoveryKey } from "../../src/bundle/recovery-key.js";
import { newClient } from "../../src/client/client.js";
import { deleteEntry, listEntries, setEntry } from "../../src/keys/keyring.js";
import { deriveKey, openEncrypted, type StoreKey } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Machine } from "../cli/machine.js";
import { type Secret, text } from "./search.js";

/**
 * Contains every character that is written differently in JSON, SQL, a shell, a URL, or without
 * UTF-8.
 */
export const passphrase = `Gänse"füß\\chen & 50% 'Ruhe'; --x`;

const plugin = "hivemind-sqlite-db-plugin";

export class LeakWorld {
  readonly machine: Machine;
  readonly recoveryKey: RecoveryKey;
  readonly #keys = new Map<string, StoreKey>();

  private constructor(machine: Machine, recoveryKey: RecoveryKey) {
    this.machine = machine;
    this.recoveryKey = recoveryKey;
  }

  /**
   * Creates a store of three clients, its passphrase in the keyring, its recovery key in a file,
   * settings, and a `server.json`.
   */
  static async make(): Promise<LeakWorld> {
    const world = new LeakWorld(await Machine.make(), await generateRecoveryKey());
    const { machine, recoveryKey } = world;
    for (const folder of [
      "data/hivemind-core",
      "config/hivemind-sqlcipher",
      "config/hivemind-core",
    ]) {
      await mkdir(machine.path(folder), { recursive: true, mode: 0o700 });
    }
    await mkdir(machine.path("tmp"));
    await writeFile(world.recoveryKeyFile, `${recoveryKey.identity}\n`, { mode: 0o600 });
    await writeFile(world.passphraseFile, passphrase, { mode: 0o600 });
    await using store = await ClientStore.create(machine.store, passphrase);
    await store.addItems(
      ["kitchen", "hall", "attic"].map((name, index) =>
        newClient({
          client_id: index + 1,
          name,
          api_key: `access-key-of-${name}-1f2e3d4c`,
          password: `password "of" ${name} ä`,
          crypto_key: `crypto-${name}-0123456789`.slice(0, 16),
          is_admin: index === 0,
        }),
      ),
    );
    await setEntry(machine.store, "current", passphrase);
    onTestFinished(() => world.#forget());
    for (const name of ["backups", "bundles"]) await mkdir(machine.path(name), { mode: 0o700 });
    await world.writeSettings({
      recipients: [recoveryKey.recipient],
      backup: { to: machine.path("backups"), bundle_to: machine.path("bundles"), service: "none" },
    });
    await world.writeServerJson();
    return world;
  }

  get recoveryKeyFile(): string {
    return this.machine.path("recovery-key.txt");
  }

  /** The recovery key of the store that init creates, `new.db`. */
  get newRecoveryKeyFile(): string {
    return this.machine.path("new-recovery-key.txt");
  }

  /** The files in which a secret was stored on purpose or on request. */
  get secretFiles(): string[] {
    return [this.recoveryKeyFile, this.newRecoveryKeyFile, this.passphraseFile];
  }

  get passphraseFile(): string {
    return this.machine.path("passphrase.txt");
  }

  get serverJson(): string {
    return this.machine.path("config/hivemind-core/server.json");
  }

  async writeSettings(settings: object): Promise<void> {
    const path = this.machine.path("config/hivemind-sqlcipher/config.json");
    await writeFile(path, JSON.stringify(settings), { mode: 0o600 });
  }

  async writeServerJson(more: object = {}): Promise<void> {
    const block = { name: "clients", subfolder: "hivemind-core", ...more };
    const settings = { network_protocol: {}, database: { module: plugin, [plugin]: block } };
    await writeFile(this.serverJson, `// the hub's\n${JSON.stringify(settings, null, 2)}\n`, {
      mode: 0o600,
    });
  }

  /** Returns the newest backup or bundle. */
  newest(folder: "backups" | "bundles"): string {
    const names = readdirSync(this.machine.path(folder)).filter((name) => /\.(db|age)$/.test(name));
    return join(this.machine.path(folder), names.sort().at(-1) ?? "none");
  }

  /**
   * Returns all present secrets: passphrases, derived keys, the recovery key, clients' credentials.
   */
  async secrets(): Promise<Secret[]> {
    const { store } = this.machine;
    const kept = [
      ...(await listEntries(store)),
      ...(await listEntries(this.machine.path("new.db"))),
    ];
    const passphrases = kept.filter(({ slot }) => !slot.startsWith("derived:"));
    const found: Secret[] = [
      text("the first passphrase", passphrase),
      ...passphrases.map(({ slot, secret }) => text(`the ${slot} passphrase`, secret)),
      ...this.#recoveryKeys(),
    ];
    const words = new Set([passphrase, ...passphrases.map(({ secret }) => secret)]);
    for (const path of this.#databases()) {
      for (const word of words) {
        const key = await this.#keyOf(readFileSync(path).subarray(0, 16), word);
        found.push({ name: "a derived key", bytes: key.key });
      }
    }
    return [...found, ...(await this.#credentials([...words]))];
  }

  #recoveryKeys(): Secret[] {
    const made = existsSync(this.newRecoveryKeyFile)
      ? (/AGE-SECRET-KEY-1\w+/.exec(readFileSync(this.newRecoveryKeyFile, "utf8"))?.[0] ?? "")
      : this.recoveryKey.identity;
    return [this.recoveryKey.identity, made].flatMap((identity) => [
      text("a recovery key", identity),
      {
        name: "a recovery key's bytes",
        bytes: Buffer.from(bech32.decodeToBytes(identity).bytes),
      },
    ]);
  }

  #databases(): string[] {
    return readdirSync(this.machine.folder, { recursive: true, encoding: "utf8" })
      .filter((name) => /\.db($|\.replaced)/.test(name) && !name.endsWith(".lock"))
      .map((name) => this.machine.path(name))
      .filter((path) => readFileSync(path).length >= 512);
  }

  async #keyOf(salt: Buffer, word: string): Promise<StoreKey> {
    const name = `${salt.toString("hex")} ${word}`;
    const key = this.#keys.get(name) ?? (await deriveKey(word, Buffer.from(salt), 4));
    this.#keys.set(name, key);
    return key;
  }

  async #credentials(words: readonly string[]): Promise<Secret[]> {
    for (const word of words) {
      const opened = await openEncrypted(this.machine.store, word, { mode: "readonly" }).catch(
        () => undefined,
      );
      if (opened === undefined) continue;
      await using store = await ClientStore.from(opened);
      const found: Secret[] = [];
      for await (const { client_id: id, api_key, password, crypto_key } of store) {
        if (api_key !== "revoked") found.push(text(`the access key of client ${id}`, api_key));
        if (password) found.push(text(`the password of client ${id}`, password));
        if (crypto_key) found.push(text(`the crypto key of client ${id}`, crypto_key));
      }
      return found;
    }
    return [];
  }

  async #forget(): Promise<void> {
    const { store } = this.machine;
    for (const path of [store, this.machine.path("beside.db"), this.machine.path("new.db")]) {
      for (const { slot } of await listEntries(path)) await deleteEntry(path, slot);
    }
  }
}
