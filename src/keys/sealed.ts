/**
 * Passphrases sealed to this machine: only `systemd-creds` opens their file, with a key
 * of this machine and, where there is one, of its TPM. systemd passes it to a unit as a credential.
 *
 * The file has one passphrase, or several lines while the store's passphrase changes: the new one,
 * then those before it. So a kill at any point leaves a file with the passphrase of the store.
 */
import { dirname, join } from "node:path";
import { configHome } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { type Outcome, run } from "../process/run.js";
import { generatePassphrase } from "./passphrase.js";
import { passphraseLines } from "./passphrase-file.js";

/** The name of the credential, sealed with it: a unit must load it under this name. */
export const sealedName = "hivemind-sqlcipher";

/** A TPM takes seconds. */
const limitMs = 60_000;

const isRoot = () => process.geteuid?.() === 0;

/** Returns the directory where systemd looks for credentials sealed for this user. */
export function sealedDirectory(): string {
  return isRoot() ? "/etc/credstore.encrypted" : join(configHome(), "credstore.encrypted");
}

export function defaultSealedPath(): string {
  return join(sealedDirectory(), sealedName);
}

/**
 * Returns the options of `systemd-creds` for this user.
 *
 * @param version - of systemd; undefined if it is not installed
 * @throws {@link StoreError} passphraseUnavailable - if this systemd cannot seal for this user
 */
export function sealingScope(version: number | undefined, ofRoot: boolean): string[] {
  const needed = ofRoot ? 250 : 256;
  if (version !== undefined && version >= needed) return ofRoot ? [] : ["--user"];
  const what = version === undefined ? "systemd-creds is not installed" : `systemd is ${version}`;
  const isForRoot = !ofRoot && version !== undefined && version >= 250;
  throw new StoreError(
    "passphraseUnavailable",
    `${what}: a passphrase is sealed ${ofRoot ? "" : "for an ordinary user "}by systemd ${needed} or later`,
    {
      hint: isForRoot
        ? "Run this as root, or use the keyring: docs/guide/headless.md shows how it is unlocked at boot."
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
  const { stdout } = await run("systemd-creds", ["--version"], { timeoutMs: limitMs });
  const version = /^systemd (\d+)/.exec(stdout)?.[1];
  return sealingScope(version === undefined ? undefined : Number(version), isRoot());
}

/**
 * Returns the passphrases in a sealed file, the likeliest first.
 *
 * @throws {@link StoreError} passphraseUnavailable - if there is none, or it was sealed elsewhere
 * @throws {@link StoreError} refused - if it has no usable passphrase
 */
export async function readSealed(path: string): Promise<string[]> {
  const scope = await findSealingScope();
  if (!(await lstatIfExists(path))) {
    throw new StoreError("passphraseUnavailable", `no such file: the sealed passphrase ${path}`, {
      hint: "Take the passphrase from a bundle: hivemind-sqlcipher bundle import BUNDLE --identity FILE",
    });
  }
  const args = ["decrypt", ...scope, `--name=${sealedName}`, "--", path, "-"];
  const outcome = await run("systemd-creds", args, { timeoutMs: limitMs });
  if (outcome.code === 0) return passphraseLines(outcome.stdout.replace(/\r?\n$/, ""), path);
  throw new StoreError("passphraseUnavailable", `cannot unseal ${path}${reasonOf(outcome)}`, {
    hint: "Only the machine that sealed it can unseal it, with the same TPM. Elsewhere: hivemind-sqlcipher bundle import BUNDLE --identity FILE",
  });
}

/**
 * Seals passphrases, and reads them back.
 *
 * @throws {@link StoreError} passphraseUnavailable - if the machine cannot seal
 * @throws {@link StoreError} refused - if a passphrase has several lines
 * @throws {@link StoreError} io - if the file cannot be written
 */
export async function seal(path: string, passphrases: readonly string[]): Promise<void> {
  if (passphrases.some((each) => /[\r\n]/.test(each))) {
    throw new StoreError("refused", "a passphrase with several lines cannot be sealed", {
      hint: "Change it first: hivemind-sqlcipher rotate",
    });
  }
  const scope = await findSealingScope();
  const args = ["encrypt", ...scope, "--with-key=auto", `--name=${sealedName}`, "-", "-"];
  const input = passphrases.join("\n");
  const sealed = await run("systemd-creds", args, { timeoutMs: limitMs, input });
  if (sealed.code !== 0) {
    throw new StoreError(
      "passphraseUnavailable",
      `systemd-creds cannot seal a passphrase${reasonOf(sealed)}`,
      { hint: "See why: systemd-creds setup; systemd-creds has-tpm2" },
    );
  }
  await makeDirectory(dirname(path));
  await replaceFile(path, sealed.stdout);
  const [first] = await readSealed(path);
  if (first === passphrases[0]) return;
  throw new StoreError("passphraseUnavailable", `${path} does not yield what was sealed in it`);
}

/**
 * Returns the passphrase for a new store: the sealed passphrase, or a new one, sealed before use.
 *
 * @throws {@link StoreError} as `readSealed` and `seal`
 */
export async function sealedOrNew(path: string, wanted?: string): Promise<string> {
  if (await lstatIfExists(path)) {
    const [sealed = ""] = await readSealed(path);
    if (wanted === undefined || wanted === sealed) return sealed;
    throw new StoreError("refused", `another passphrase is sealed in ${path}`, {
      hint: "Name another file with --passphrase-source sealed:PATH, or leave out --passphrase-file.",
    });
  }
  const passphrase = wanted ?? generatePassphrase();
  await seal(path, [passphrase]);
  return passphrase;
}

function reasonOf({ failure, stderr }: Outcome): string {
  const text = failure === "timeout" ? "it timed out" : stderr.split("\n").at(-1);
  return text ? `: ${text}` : "";
}
