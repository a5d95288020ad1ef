/** The options that name a bundle and what opens it. */
import type { BundleContents, BundleOpener } from "../bundle/bundle.js";
import { expandPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { readSecretFile } from "../files/private.js";

export interface BundleKeyOptions {
  bundle?: string;
  identity?: string;
  bundlePassphraseFile?: string;
}

/** What opens a bundle, as the options say; undefined if they do not. @throws StoreError for a file that is no key. */
export async function openerOf(options: BundleKeyOptions): Promise<BundleOpener | undefined> {
  const { identity, bundlePassphraseFile } = options;
  if (identity !== undefined) {
    const { readIdentityFile } = await import("../bundle/recovery-key.js");
    return { identity: await readIdentityFile(expandPath(identity)) };
  }
  if (bundlePassphraseFile === undefined) return undefined;
  return { passphrase: await readSecretFile(expandPath(bundlePassphraseFile)) };
}

/**
 * What is in the bundle that the options name; undefined if they name none.
 *
 * @throws StoreError `usage` if nothing that opens it is named, and whatever reading a bundle throws.
 */
export async function bundleIn(options: BundleKeyOptions): Promise<BundleContents | undefined> {
  const opener = await openerOf(options);
  if (options.bundle === undefined) {
    if (opener === undefined) return undefined;
    throw new StoreError("usage", "which bundle does that open?", { hint: "--bundle FILE" });
  }
  if (opener === undefined) {
    throw new StoreError("usage", "the bundle is encrypted", {
      hint: "Name what opens it: --identity FILE (the recovery key), or --bundle-passphrase-file FILE.",
    });
  }
  const { readBundle } = await import("../bundle/bundle.js");
  return readBundle(expandPath(options.bundle), opener);
}
