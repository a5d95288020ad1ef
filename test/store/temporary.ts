/** Temporary directories and fixtures for the tests of a store. */
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

/** Stores written by other programs. */
export const fixtures = new URL("../fixtures/", import.meta.url).pathname;

/** The passphrases of the encrypted fixtures. */
export const fixturePassphrases = {
  "sqlcipher3-schema2.db": "legacy pass'phrase",
  "sqlcipher4-schema2.db": "correct 'horse' battery",
} as const;

/** Creates a directory that is removed after the test. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "hivemind-store-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Copies a fixture to a temporary directory. */
export async function copyOfFixture(name: string): Promise<string> {
  const path = join(await temporaryFolder(), name);
  await cp(join(fixtures, name), path);
  return path;
}
