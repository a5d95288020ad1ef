/**
 * Passphrases encrypted for this machine by `systemd-creds`, with the key of this host and with the
 * TPM if there is one. systemd decrypts the file for a unit as a credential.
 *
 * The file contains a passphrase per line, the newest first: several stores can share the file, and
 * during a rotation it has the new and the old passphrase, so that after a kill at any point it has
 * the store's passphrase.
 */
import { dirname, join } from "node:path";
import { configHome } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { type Outcome, run } from "../process/run.js";
import { parsePassphraseLines } from "./passphrase-file.js";

/** The credential's name. The encrypted data contains it, so a unit must load it by this name. */
export const sealedName = "hivemind-sqlcipher";

/** A TPM operation can take several seconds. */
const timeoutMs = 60_000;

/** Returns the directory where systemd looks for credentials sealed for this user. */
export function sealedDirectory(): string {
  return isRoot() ? "/etc/credstore.encrypted" : join(configHome(), "credstore.encrypted");
}

export function defaultSealedPath(): string {
  return join(sealedDirectory(), sealedName);
}

/**
 * Returns the options with which `systemd-creds` seals for root or for an ordinary user.
 *
 * @param version - the version of systemd; undefined if it is not installed
 * @throws {@link StoreError} passphraseUnavailable - if this systemd cannot seal for this user
 */
export function resolveSealingScope(version: number | undefined, forRoot: boolean): string[] {
  const needed = forRoot ? 250 : 256;
  if (version !== undefined && version >= needed) return forRoot ? [] : ["--user"];
  const what = version === undefined ? "systemd-creds is not installed" : `systemd is ${version}`;
  const canRootSeal = !forRoot && version !== undefined && version >= 250;
  throw new StoreError(
    "passphraseUnavailable",
    `${what}: sealing a passphrase ${forRoot ? "" : "for an ordinary user "}needs systemd ${needed} or later`,
    {
      hint: canRootSeal
        ? "Run this command as root, or use the keyring as in docs/guide/headless.md."
        : "Use another source: --passphrase-source keyring or file:PATH",
    },
  );
}

/**
 * Returns the options of `systemd-creds` for this user and this machine.
 *
 * @throws {@link StoreError} passphraseUnavailable - if the passphrase cannot be sealed here
 */
export async function findSealingScope(): Promise<string[]> {
  const { stdout } = await run("systemd-creds", ["--version"], { timeoutMs });
  const version = /^systemd (\d+)/.exec(stdout)?.[1];
  return resolveSealingScope(version === undefined ? undefined : Number(version), isRoot());
}

/**
 * Returns the passphrases in a sealed file, the newest first.
 *
 * @throws {@link StoreError} passphraseUnavailable - if the file is missing or cannot be decrypted
 *   here
 * @throws {@link StoreError} refused - if it has no usable passphrase
 */
export async function readSealed(path: string): Promise<string[]> {
  const scope = await findSealingScope();
  if (!(await lstatIfExists(path))) {
    throw new StoreError("passphraseUnavailable", `no such file: the sealed passphrase ${path}`, {
      hint: "Restore it from a bundle: hivemind-sqlcipher bundle import BUNDLE --identity FILE",
    });
  }
  const outcome = await decrypt(path, scope);
  if (outcome.code === 0) return parsePassphraseLines(outcome.stdout.replace(/\r?\n$/, ""), path);
  throw new StoreError("passphraseUnavailable", `cannot unseal ${path}${reasonOf(outcome)}`, {
    hint: "Only the machine and the TPM that sealed it can unseal it, and with a TPM only while the state of Secure Boot is the same. Restore it from a bundle: hivemind-sqlcipher bundle import BUNDLE --identity FILE",
  });
}

/** @param input - the sealed text, if `path` is `-` */
function decrypt(path: string, scope: readonly string[], input?: string): Promise<Outcome> {
  const args = ["decrypt", ...scope, `--name=${sealedName}`, "--", path, "-"];
  return run("systemd-creds", args, { timeoutMs, input });
}

/**
 * Seals passphrases in a file, and replaces an existing file. First checks that this machine can
 * unseal the new contents.
 *
 * @throws {@link StoreError} passphraseUnavailable - if the machine cannot seal
 * @throws {@link StoreError} refused - if a passphrase has several lines
 * @throws {@link StoreError} io - if the file cannot be written
 */
export async function seal(path: string, passphrases: readonly string[]): Promise<void> {
  if (passphrases.some((each) => /[\r\n]/.test(each))) {
    throw new StoreError("refused", "a passphrase that contains a line break cannot be sealed", {
      hint: "Change it first with hivemind-sqlcipher rotate.",
    });
  }
  const scope = await findSealingScope();
  const args = ["encrypt", ...scope, "--with-key=auto", `--name=${sealedName}`, "-", "-"];
  const input = passphrases.join("\n");
  const sealed = await run("systemd-creds", args, { timeoutMs, input });
  if (sealed.code !== 0) {
    throw new StoreError(
      "passphraseUnavailable",
      `systemd-creds cannot seal a passphrase${reasonOf(sealed)}`,
      {
        hint: "Check the TPM with systemd-creds has-tpm2. As root, systemd-creds setup creates the key of this host.",
      },
    );
  }
  const unsealed = await decrypt("-", scope, sealed.stdout);
  if (unsealed.code !== 0 || unsealed.stdout !== input) {
    throw new StoreError(
      "passphraseUnavailable",
      `this machine cannot unseal what it has sealed${reasonOf(unsealed)}`,
      { hint: "Check the TPM with systemd-creds has-tpm2." },
    );
  }
  await makeDirectory(dirname(path));
  await replaceFile(path, sealed.stdout);
}

function reasonOf({ failure, stderr }: Outcome): string {
  const text = failure === "timeout" ? "it timed out" : stderr.split("\n").at(-1);
  return text ? `: ${text}` : "";
}
