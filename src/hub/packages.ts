/**
 * The packages of the hub that an encrypted store requires: the commands that install them, and
 * whether those of an interpreter open the store.
 */
import { isAbsolute } from "node:path";
import { isKind, StoreError } from "../errors.js";
import type { Reporter } from "../reporter.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import type { HubPython } from "./interpreter.js";
import { cipherFormat, type HubPackages, probePackages } from "./probe.js";

/** The first version that uses a password is this pre-release. Version 0.2.1 ignores a password. */
export const pluginRequirement = "hivemind-sqlite-database>=0.3.0a3";

/** An SQLite plugin that uses its `password`, and a `sqlcipher3` for format 4. */
export const requirements = [pluginRequirement, "sqlcipher3>=0.6.2"];

/**
 * Returns how to upgrade the hub to HiveMind 5: a command line for an interpreter of this machine,
 * or the change of the image for a container.
 */
export function upgradeLine(python: string): string {
  const packages = ["hivemind-core", "hivemind-plugin-manager", "hivemind-sqlite-database"];
  return installLine(python, ...packages);
}

/** Returns the command that installs packages for an interpreter, or the advice to do so. */
export function installLine(python: string, ...packages: readonly string[]): string {
  const install = pipInstall(packages);
  if (isAbsolute(python)) return `${shellQuote(python)} -m ${install}`;
  return `build the container's image with ${install}, then create the container again`;
}

/** Returns the command line of pip that installs packages, which may have a version. */
export function pipInstall(packages: readonly string[]): string {
  const quoted = packages.map((each) => (/^[\w-]+$/.test(each) ? each : shellQuote(each)));
  return `pip install --pre --upgrade ${quoted.join(" ")}`;
}

/**
 * Tests the packages in a container. If the test fails, for example because the image has no
 * shell, prints a notice and returns undefined.
 */
export async function probeContainerPackages(
  python: HubPython,
  name: string | null,
  reporter: Pick<Reporter, "notice">,
): Promise<HubPackages | undefined> {
  try {
    return await probePackages(python);
  } catch (error) {
    if (!isKind(error, "failed")) throw error;
    reporter.notice(uncheckedContainer(name, error.message));
    return undefined;
  }
}

/** Returns the notice that the packages of a container were not checked. */
export function uncheckedContainer(
  name: string | null,
  why = "the Python of its hub was not found",
): string {
  return `the SQLite plugin in the container ${name} is not checked for encryption: ${why}`;
}

/**
 * Checks that the hub's packages open an encrypted store.
 *
 * @param cipherCompatibility - the format of the store; undefined if it is unknown
 * @throws {@link StoreError} refused - if they do not
 */
export function assertPackages(
  packages: HubPackages,
  python: string,
  cipherCompatibility: CipherCompatibility | undefined,
): void {
  const { sqlitePlugin, problem } = packages;
  if (problem !== null) {
    throw refusal(
      `the hub in ${python} cannot open an encrypted store: ${problem}`,
      `Repair its packages with the hub's own pip: ${pipInstall(requirements)}`,
    );
  }
  if (!packages.takesPassword) {
    throw refusal(
      `hivemind-sqlite-database ${sqlitePlugin ?? ""} in ${python} ignores the password and would write plain text`,
      `Upgrade it with the hub's own pip: ${pipInstall(requirements)}`,
    );
  }
  const hubFormat = cipherFormat(packages);
  if (cipherCompatibility !== undefined && hubFormat !== cipherCompatibility) {
    throw refusal(
      `the store has SQLCipher format ${cipherCompatibility}, but the hub's sqlcipher3 in ${python} reads format ${hubFormat}`,
      hubFormat > cipherCompatibility
        ? `Convert the store: hivemind-sqlcipher encrypt --cipher-compatibility ${hubFormat}`
        : `Upgrade sqlcipher3 with the hub's own pip: ${pipInstall(requirements)}`,
    );
  }
}

function refusal(message: string, hint: string): StoreError {
  return new StoreError("refused", message, { hint });
}
