/** Where copies of backups and bundles go: a directory, or a remote of rclone. */

/** Whether the copy was read back for its SHA-256, or the server of the remote returned it. */
export type CopyCheck = "read_back" | "remote_hash";

/** Names and sizes in bytes of the files in a target. */
export type TargetFiles = ReadonlyMap<string, number>;

/** Where a target's files are. Two targets with the same location have the same files. */
export interface Location {
  /** The name of a remote; null for a directory of this machine. */
  readonly remote: string | null;
  readonly path: string;
}

/** A location for copies: a flat list of files. */
export interface Target {
  /** As the user writes it: `/media/usb/hivemind` or `rclone:nas:hivemind`. */
  readonly name: string;

  /**
   * Whether an interrupted `write` may leave an incomplete file under a final name. If so, `write`
   * overwrites an existing file; otherwise it refuses.
   */
  readonly mayLeaveIncomplete: boolean;

  /** The location in the target's text. A remote is not contacted, so an alias is not resolved. */
  readonly planned: Location;

  /**
   * Returns the location after rclone has resolved an alias. Remotes that encrypt or combine other
   * remotes have a location of their own.
   *
   * @throws {@link StoreError} io - if the remote cannot be reached
   */
  location(): Promise<Location>;

  /** Returns a file's path as the user writes it. */
  pathOf(file: string): string;

  /**
   * Returns the files.
   *
   * @throws {@link StoreError} notFound - if the directory on a remote does not exist
   * @throws {@link StoreError} io - if the target cannot be read
   */
  list(): Promise<TargetFiles>;

  /**
   * Copies a file. The final name appears only when the copy is complete and has been checked,
   * unless {@link mayLeaveIncomplete}.
   *
   * @param from - path of the file on this machine
   * @param file - the final name; must be free, or hold an incomplete file
   * @param sha256 - of the contents, in hex
   * @throws {@link StoreError} interrupted - if the operation is interrupted; after the last write
   * @throws {@link StoreError} corrupted - if the target returns other bytes than were written
   * @throws {@link StoreError} refused - if a directory has a file with the final name
   * @throws {@link StoreError} io - if the target cannot be written or read
   */
  write(from: string, file: string, sha256: string): Promise<CopyCheck>;

  /**
   * Compares an existing file with a SHA-256.
   *
   * @returns undefined if the file has another SHA-256
   * @throws {@link StoreError} io - if the file cannot be read
   */
  check(file: string, sha256: string): Promise<CopyCheck | undefined>;

  /**
   * Replaces an existing file as {@link write} copies one. When the new file is complete and has
   * been checked, the existing file gets a second name, and then the new file gets its name.
   *
   * @param second - a free name
   * @throws {@link StoreError} as `write`; io - also if the target refuses to rename a file
   */
  supersede(from: string, file: string, second: string, sha256: string): Promise<CopyCheck>;

  /** @throws {@link StoreError} io - if the target refuses it */
  remove(file: string): Promise<void>;
}
