/** Checks the bundle of the store, and the tests of backups and the bundle. */
import { dirname, join } from "node:path";
import { findLastRestoreTests, type RestoreTest } from "../backup/restore-test.js";
import { describeBundle, isVerified } from "../bundle/bundle.js";
import { readUsedDirectories } from "../config/known-directories.js";
import { StoreError } from "../errors.js";
import { statIfExists } from "../fs/read.js";
import { bundleName } from "../keys/bundle-name.js";
import type { StoreKey } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { dayMs, findNewestKnown } from "./backups.js";
import { type Check, checksNamed } from "./check.js";
import type { StoreLocations } from "./files.js";

/** Half a year: recovery keys get lost and disks are replaced. */
const oldRestoreTestMs = 183 * dayMs;

/**
 * Checks whether the store's bundle exists, was verified, and is on another disk.
 *
 * @param keyId - undefined if there is no encrypted store
 * @param key - undefined if the store does not open; the verification record is then
 *   unauthenticated
 */
export async function checkBundle(
  locations: StoreLocations,
  keyId: string | undefined,
  key: StoreKey | undefined,
): Promise<Check[]> {
  const { bundleFolder, backupFolder, storePath } = locations;
  const { warning, error } = checksNamed("bundle");
  const make = "hivemind-sqlcipher bundle export --bundle-to DIRECTORY";
  if (bundleFolder === undefined) {
    return [error("the settings name no directory for bundles", make)];
  }
  const device = await findDevice(bundleFolder);
  if (device === undefined) {
    return [
      warning(
        `${bundleFolder}: no such directory`,
        `Mount its disk, then run doctor again. If the directory is lost, write the bundle elsewhere: ${make}`,
      ),
    ];
  }
  const checks: Check[] = [];
  if (keyId !== undefined) {
    checks.push(await checkVerificationRecord(join(bundleFolder, bundleName(keyId)), key));
  }
  const together = [];
  if (device === (await findDevice(dirname(storePath)))) together.push("the store");
  if (backupFolder && device === (await findDevice(backupFolder))) together.push("the backups");
  const copy = together.length === 0 ? undefined : await findCopyElsewhere(locations, keyId);
  const disk = checksNamed("bundle-disk");
  checks.push(
    together.length === 0 || copy !== undefined
      ? disk.good(`the bundle is on ${copy ?? "a disk of its own"}`)
      : disk.warning(
          `${bundleFolder} is on the same disk as ${together.join(" and ")}: a failed disk loses all of them`,
          `Keep the bundle on another disk: ${make}`,
        ),
  );
  return checks;
}

/** Finds a copy of the bundle on a disk that has neither the store nor the backups. */
async function findCopyElsewhere(
  { backupFolder, storePath }: StoreLocations,
  keyId: string | undefined,
): Promise<string | undefined> {
  if (keyId === undefined) return undefined;
  const used = [dirname(storePath), ...(backupFolder === undefined ? [] : [backupFolder])];
  const devices = await Promise.all(used.map(findDevice));
  for (const directory of await readUsedDirectories(storePath)) {
    const path = join(directory, bundleName(keyId));
    const device = await findDevice(path);
    if (device !== undefined && !devices.includes(device)) return path;
  }
  return undefined;
}

async function checkVerificationRecord(path: string, key: StoreKey | undefined): Promise<Check> {
  const { good, warning, error: missing } = checksNamed("bundle");
  const make = `hivemind-sqlcipher bundle export --bundle-to ${shellQuote(dirname(path))}`;
  try {
    const { proof } = await describeBundle(path);
    if (proof?.matches && (key === undefined || (await isVerified(path, key)))) {
      return good(`${path} opens the store`);
    }
    return warning(`${path} was not verified to open the store`, make);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const without = "if the stored passphrase is lost, nothing opens the store and its backups";
    return missing(`${error.message}; ${without}`, make);
  }
}

async function findDevice(path: string): Promise<number | undefined> {
  return (await statIfExists(path))?.dev;
}

/**
 * Checks when a backup was last restored as a test, and when this was last done with the bundle.
 * Before the first restore test there is only one finding, because a test with the bundle fixes
 * both.
 */
export async function checkRestoreTest(
  locations: StoreLocations,
  keyId: string | undefined,
): Promise<Check[]> {
  const { last, withBundle } = await findLastRestoreTests(locations.storePath);
  const { path, bundle } = await findNewestKnown(locations);
  const withKey = `hivemind-sqlcipher verify ${path} --bundle ${bundle} --identity RECOVERY-KEY`;
  if (last === undefined) {
    const detail = "no backup was ever restored, or verified with its bundle";
    return [checksNamed("restore-tried").warning(detail, withKey)];
  }
  return [
    checkTest("restore-tried", "restore test", {
      test: last,
      keyId,
      fix: "hivemind-sqlcipher drill",
    }),
    checkTest("bundle-tried", "test with the bundle and its recovery key", {
      test: withBundle,
      keyId,
      fix: withKey,
    }),
  ];
}

function checkTest(
  name: string,
  what: string,
  { test, keyId, fix }: { test: RestoreTest | undefined; keyId: string | undefined; fix: string },
): Check {
  const { good, warning } = checksNamed(name);
  if (test === undefined) return warning(`no ${what} is recorded`, fix);
  const when = `${test.backup}, by ${test.how}, on ${test.at.slice(0, 10)}`;
  if (keyId !== undefined && test.key_id !== keyId) {
    return warning(`no ${what} since the passphrase changed; the last before that: ${when}`, fix);
  }
  const age = Date.now() - Date.parse(test.at);
  if (age < 0) {
    return warning(`the last ${what} is from the future, so the clock was wrong: ${when}`, fix);
  }
  if (age > oldRestoreTestMs) {
    return warning(`the last ${what} was long ago: ${when}`, fix);
  }
  return good(when);
}
