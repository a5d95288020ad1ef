/** Writes a backup's manifest, and gives both files their final names. */
import { hostname } from "node:os";
import { basename } from "node:path";
import type { ClientCounts } from "../client/client.js";
import { StoreError } from "../errors.js";
import { createFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import type { Journal } from "../operation/journal.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import { commitBackup } from "./commit.js";
import type { BackupJournal } from "./journal.js";
import {
  backupPath,
  formatManifest,
  type Manifest,
  manifestPath,
  signManifest,
} from "./manifest.js";
import type { Inspection } from "./verify.js";

/**
 * The number of names to try. A backup's name contains a second. If the name is taken, the name of
 * the next second is tried.
 */
const maxNames = 60;

/** A verified copy without its final name. */
export interface UnnamedBackup {
  readonly directory: string;
  readonly storePath: string;
  /** For the name and the manifest. Every commit before this time is in the copy. */
  readonly at: Date;
  readonly journal: Journal;
  /** The paths of the copy and of its future manifest. */
  readonly files: BackupJournal;
  readonly key: StoreKey;
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
  readonly contents: Inspection;
  /** The name of the unit or container; null if no service was stopped, or it has no name. */
  readonly unit: string | null;
  readonly method: Manifest["method"];
  /** Undefined if the backup gets no id. */
  readonly storeId: string | undefined;
}

/** A complete backup. */
export interface NamedBackup {
  readonly path: string;
  readonly manifest: string;
  /** UTC. Every commit before this time is in the backup. */
  readonly createdAt: string;
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
  readonly keyId: string;
  readonly schemaVersion: number;
  readonly clients: ClientCounts;
  readonly method: Manifest["method"];
}

/**
 * Writes the manifest, and gives both files the first free name from the second of `at`.
 *
 * @throws {@link StoreError} refused - if the names of a whole minute are taken
 */
export async function nameBackup(unnamed: UnnamedBackup): Promise<NamedBackup> {
  const { directory, storePath, at, journal, files } = unnamed;
  for (let later = 0; later < maxNames; later++) {
    const copy = backupPath(directory, storePath, new Date(at.getTime() + later * 1000));
    const manifest = manifestPath(copy);
    if ((await lstatIfExists(copy)) || (await lstatIfExists(manifest))) continue;
    const signed = manifestFor(unnamed, basename(copy));
    await createFile(files.staged.manifest, formatManifest(signed));
    await commitBackup(journal, files, { copy, manifest });
    return {
      path: copy,
      manifest,
      createdAt: signed.created_at,
      size: signed.size,
      sha256: signed.sha256,
      keyId: signed.key_id,
      schemaVersion: signed.schema_version,
      clients: signed.clients,
      method: signed.method,
    };
  }
  throw new StoreError("refused", `every name for a backup of this minute exists in ${directory}`, {
    hint: "Try again in a minute.",
  });
}

function manifestFor(
  { at, key, size, sha256, contents, unit, method, storeId }: UnnamedBackup,
  file: string,
): Manifest {
  return signManifest(
    {
      created_at: at.toISOString(),
      file,
      size,
      sha256,
      key_id: keyIdOf(key.salt),
      cipher_compatibility: key.cipherCompatibility,
      schema_version: contents.schemaVersion,
      clients: contents.clients,
      page_size: contents.pageSize,
      hostname: hostname(),
      unit,
      method,
      ...(storeId !== undefined && { store_id: storeId }),
    },
    key,
  );
}
