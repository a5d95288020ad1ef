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
    .option("-i, --identity <file>", "Open the bundle with this recovery key")
    .option("--bundle-passphrase-file <path>", "Open the bundle with the passphrase in this file");
}

/** Adds the options that name a bundle, for a command that also works without one. */
export function addBundleOptions(command: Command): Command {
  return addOpenerOptions(
    command.option("--bundle <file>", "Take the passphrase from this bundle, not the keyring"),
  );
}

/**
 * Returns what opens a bundle, or undefined if the options name nothing.
 *
 * @throws {@link StoreError} if the file named cannot be read or has no key
 */
export async function openerOf(options: BundleKeyOptions): Promise<BundleOpener | undefined> {
  const { identity, bundlePassphraseFile } = options;
  if (identity !== undefined) {
    const { readIdentityFile } = await import("../../bundle/recovery-key.js");
    return { identity: await readIdentityFile(expandPath(identity)) };
  }
  if (bundlePassphraseFile === undefined) return undefined;
  return { passphrase: await readSecretFile(expandPath(bundlePassphraseFile)) };
}

/**
 * Returns what opens a bundle.
 *
 * @throws {@link StoreError} usage - if the options name nothing
 */
export async function requiredOpener(options: BundleKeyOptions): Promise<BundleOpener> {
  const opener = await openerOf(options);
  if (opener !== undefined) return opener;
  throw new StoreError("usage", "the bundle is encrypted, and no key to open it was given", {
    hint: "Add --identity FILE with the recovery key, or --bundle-passphrase-file FILE.",
  });
}

/**
 * Returns the bundle and what opens it, or undefined if the options name neither.
 *
 * @throws {@link StoreError} usage - if they name only one of the two
 */
export async function bundleOf(
  options: BundleKeyOptions,
): Promise<{ path: string; opener: BundleOpener } | undefined> {
  if (options.bundle !== undefined) {
    return { path: expandPath(options.bundle), opener: await requiredOpener(options) };
  }
  if ((await openerOf(options)) === undefined) return undefined;
  throw new StoreError("usage", "a key for a bundle was given, but no bundle", {
    hint: "Add --bundle FILE.",
  });
}

/** Returns the contents of the bundle that the options name, or undefined if they name none. */
export async function bundleIn(options: BundleKeyOptions): Promise<BundleContents | undefined> {
  const bundle = await bundleOf(options);
  if (bundle === undefined) return undefined;
  const { readBundle } = await import("../../bundle/bundle.js");
  return readBundle(bundle.path, bundle.opener);
}
