/** The last part of every backup: its manifest and its final names. */
import { basename } from "node:path";
import { StoreError } from "../errors.js";
import { createFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import type { Journal } from "../operation/journal.js";
import { backupPath, formatManifest, type Manifest, manifestPath } from "./manifest.js";
import { type BackupJournal, commitBackup } from "./recover.js";

/** Names have a resolution of a second: how many later seconds are tried. */
const nameTries = 60;

export interface UnnamedBackup {
  readonly directory: string;
  readonly storePath: string;
  /** The time for the name. */
  readonly at: Date;
  readonly journal: Journal;
  /** The verified copy, and the path for its manifest before it gets its final name. */
  readonly files: BackupJournal;
  readonly manifestFor: (file: string) => Manifest;
}

/** A complete backup. */
export interface NamedBackup {
  readonly path: string;
  readonly manifest: string;
  /** When the copy was completed, UTC. */
  readonly createdAt: string;
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
  readonly keyId: string;
  readonly schemaVersion: number;
  readonly clients: { readonly active: number; readonly revoked: number };
  readonly method: Manifest["method"];
}

/**
 * Writes the manifest, and gives both files the name of the first free second from `at`.
 *
 * @throws {@link StoreError} refused - if a minute has no free name
 */
export async function nameBackup(unnamed: UnnamedBackup): Promise<NamedBackup> {
  const { directory, storePath, at, journal, files, manifestFor } = unnamed;
  for (let later = 0; later < nameTries; later++) {
    const copy = backupPath(directory, storePath, new Date(at.getTime() + later * 1000));
    const manifest = manifestPath(copy);
    if ((await lstatIfExists(copy)) || (await lstatIfExists(manifest))) continue;
    const signed = manifestFor(basename(copy));
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
