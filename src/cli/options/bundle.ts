/** The options that name a bundle and what opens it. */
import type { Command } from "commander";
import type { BundleContents, BundleOpener } from "../../bundle/bundle.js";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { readSecretFile } from "../../fs/private.js";

export interface BundleKeyOptions {
  bundle?: string;
  identity?: string;
  bundlePassphraseFile?: string;
}

/** Adds the options that name what opens a bundle. */
export function addOpenerOptions(command: Command): Command {
  return command
    .option("-i, --identity <file>", "the recovery key that opens the bundle")
    .option("--bundle-passphrase-file <path>", "the file with the bundle's passphrase");
}

/** Adds these, and the bundle itself, for a command that can do without one. */
export function addBundleOptions(command: Command): Command {
  return addOpenerOptions(
    command.option("--bundle <file>", "with the passphrase out of this bundle, not the keyring's"),
  );
}

/** What opens a bundle, as the options say; undefined if they do not. @throws StoreError for a file that is no key. */
export async function openerOf(options: BundleKeyOptions): Promise<BundleOpener | undefined> {
  const { identity, bundlePassphraseFile } = options;
  if (identity !== undefined) {
    const { readIdentityFile } = await import("../../bundle/recovery-key.js");
    return { identity: await readIdentityFile(expandPath(identity)) };
  }
  if (bundlePassphraseFile === undefined) return undefined;
  return { passphrase: await readSecretFile(expandPath(bundlePassphraseFile)) };
}

/** The same where it is needed. @throws StoreError `usage` if the options name nothing that opens it. */
export async function requiredOpener(options: BundleKeyOptions): Promise<BundleOpener> {
  const opener = await openerOf(options);
  if (opener !== undefined) return opener;
  throw new StoreError("usage", "the bundle is encrypted", {
    hint: "Name what opens it: --identity FILE (the recovery key), or --bundle-passphrase-file FILE.",
  });
}

/**
 * The bundle that the options name, with what opens it; undefined if they name none.
 *
 * @throws StoreError `usage` if one of the two is missing.
 */
export async function bundleOf(
  options: BundleKeyOptions,
): Promise<{ path: string; opener: BundleOpener } | undefined> {
  if (options.bundle !== undefined) {
    return { path: expandPath(options.bundle), opener: await requiredOpener(options) };
  }
  if ((await openerOf(options)) === undefined) return undefined;
  throw new StoreError("usage", "which bundle does that open?", { hint: "--bundle FILE" });
}

/** What is in that bundle. @throws StoreError as `bundleOf`, and whatever reading a bundle throws. */
export async function bundleIn(options: BundleKeyOptions): Promise<BundleContents | undefined> {
  const bundle = await bundleOf(options);
  if (bundle === undefined) return undefined;
  const { readBundle } = await import("../../bundle/bundle.js");
  return readBundle(bundle.path, bundle.opener);
}
