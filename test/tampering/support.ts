/**
 * A small store with two backups, created with the project's own code, for tests that alter them.
 */
import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import {
  formatManifest,
  type Manifest,
  manifestPath,
  signManifest,
} from "../../src/backup/manifest.js";
import { type Verification, verifyBackup } from "../../src/backup/verify.js";
import { newClient } from "../../src/client/client.js";
import { StoreError } from "../../src/errors.js";
import { openEncrypted, type StoreKey } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";

export const passphrase = "correct horse battery";
export const pageSize = 4096;

export interface Backup {
  readonly path: string;
  readonly bytes: Buffer;
  readonly manifest: Manifest;
}

export interface TwoBackups {
  readonly store: string;
  readonly key: StoreKey;
  readonly older: Backup;
  readonly newer: Backup;
}

/**
 * Creates a store in a single file and two backups of it. Between them, client 1 lost its admin
 * rights and client 2 was revoked. Each row has a page of its own, and both backups have the same
 * number of pages.
 */
export async function twoBackups(folder: string, clients = 6): Promise<TwoBackups> {
  await mkdir(join(folder, "backups"), { recursive: true });
  const store = join(folder, "clients.db");
  const opened = await ClientStore.create(store, passphrase);
  const { key } = opened;
  await opened.connection.all("PRAGMA journal_mode = DELETE");
  await opened.addItems(
    Array.from({ length: clients }, (_, index) =>
      newClient({
        client_id: index + 1,
        api_key: `key ${index + 1}`,
        is_admin: index === 0,
        description: "d".repeat(3000),
      }),
    ),
  );
  const older = await backUp(opened, folder, "2026-11-24T18-50-00Z");
  await opened.updateClient(1, { is_admin: false });
  await opened.updateClient(2, { api_key: "revoked" });
  const newer = await backUp(opened, folder, "2026-11-25T18-50-00Z");
  await opened.close();
  return { store, key, older, newer };
}

/** Creates a backup like `backup`, of a store that is not in WAL mode and has no writer. */
export async function backUp(store: ClientStore, folder: string, when: string): Promise<Backup> {
  const path = join(folder, "backups", `clients.${when}.db`);
  await copyFile(store.connection.path, path);
  const bytes = await readFile(path);
  const manifest = signManifest(
    {
      created_at: when.replace(/T(\d\d)-(\d\d)-/, "T$1:$2:"),
      file: basename(path),
      size: bytes.length,
      sha256: sha256Of(bytes),
      key_id: store.keyId,
      cipher_compatibility: 4,
      schema_version: store.schemaVersion,
      clients: await store.counts(),
      page_size: pageSize,
      hostname: "hub",
      unit: null,
      method: "stopped",
    },
    store.key,
  );
  await writeFile(manifestPath(path), formatManifest(manifest));
  return { path, bytes, manifest };
}

export function sha256Of(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Copies a backup to a new directory under its name. */
export async function place(
  folder: string,
  name: string,
  bytes: Buffer,
  manifest: string | undefined,
): Promise<string> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, name);
  await writeFile(path, bytes);
  if (manifest !== undefined) await writeFile(manifestPath(path), manifest);
  return path;
}

/** Returns the failed checks. An error of `verify` counts as a check, named by its kind. */
export async function refusals(path: string, secret = passphrase): Promise<string[]> {
  try {
    return failed(await verifyBackup(path, { passphrase: secret }));
  } catch (error) {
    if (error instanceof StoreError) return [`thrown: ${error.kind}`];
    throw error;
  }
}

function failed({ checks }: Verification): string[] {
  return checks.filter(({ ok }) => !ok).map(({ name }) => name);
}

/** Runs as many items at a time as there are cores, in any order. */
export async function inParallel<Item>(
  items: readonly Item[],
  work: (item: Item, index: number) => Promise<void>,
): Promise<void> {
  const queue = items.entries();
  const worker = async () => {
    for (const [index, item] of queue) await work(item, index);
  };
  await Promise.all(Array.from({ length: 3 }, worker));
}

/** Opens a copy and returns the administrators in it. */
export async function adminsIn(path: string): Promise<number[]> {
  const { connection } = await openEncrypted(path, passphrase, {
    mode: "readonly",
    immutable: true,
  });
  try {
    const rows = await connection.all<{ client_id: number }>(
      "SELECT client_id FROM clients WHERE is_admin = 1",
    );
    return rows.map((row) => row.client_id);
  } finally {
    await connection.close();
  }
}
