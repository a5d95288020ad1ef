/** Inspects the hub's Python packages, and returns the commands that install others. */
import { systemError } from "../errors.js";
import { resolvePythonAccount } from "../hub/account.js";
import { describePython, type HubPython } from "../hub/interpreter.js";
import { pipInstall, requirements } from "../hub/packages.js";
import { probePackagesCached } from "../hub/packages-cache.js";
import { cipherFormat, type HubPackages } from "../hub/probe.js";
import { blacklistProblem } from "../hub/schema.js";
import { canWriteAs } from "../process/directories.js";
import type { Account } from "../process/run.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";

/** Returns the command that lets an image of HiveMind install the packages when it starts. */
export function packageListLine(list: string): string {
  const quoted = requirements.map((each) => shellQuote(each)).join(" ");
  return `printf '%s\\n' ${quoted} >> ${shellQuote(list)}`;
}

/** Returns the arguments that install the hub's packages with its own pip. */
export function pipArguments(python: string): string[] {
  return [python, "-m", "pip", "install", "--pre", "--upgrade", ...requirements];
}

/** Returns the command line of `pipArguments` for a hint. */
export function pipLine(python: string): string {
  const program = /^[\w@%+=,./-]+$/.test(python) ? python : shellQuote(python);
  return `${program} -m ${pipInstall(requirements)}`;
}

export interface PackagesSurvey {
  readonly python: string;
  /** Whether the hub would encrypt a store that it opens with a password. */
  readonly canEncrypt: boolean;
  readonly problem: string | null;
  readonly format: CipherCompatibility;
  /** The newest schema that the hub reads; undefined if its packages do not report it. */
  readonly schemaVersion: 0 | 2 | undefined;
  /** Why the hub enforces no blacklist in an SQLite store; undefined if it does. */
  readonly blacklistProblem: string | undefined;
  /** Whether pip can write to `directory`. */
  readonly isWritable: boolean;
  readonly directory: string | undefined;
}

/** Returns whether the hub is HiveMind 4, perhaps with a plugin of HiveMind 5, or may be. */
export function isHiveMind4({
  canEncrypt,
  blacklistProblem,
  schemaVersion,
}: PackagesSurvey): boolean {
  return canEncrypt ? blacklistProblem !== undefined : (schemaVersion ?? 0) < 2;
}

/** @param options.remember - lets `run` start the hub without asking its packages again */
export async function surveyPackages(
  python: HubPython,
  asked: Account,
  options = { remember: false },
): Promise<PackagesSurvey> {
  const account = await resolvePythonAccount(python[0], asked);
  const packages = await probePackagesCached(python, account, options).catch(
    (error: unknown): HubPackages => {
      const problem = systemError(error, "the interpreter does not answer", "failed").message;
      const unknown = {
        pluginManager: null,
        sqlitePlugin: null,
        schemaVersion: null,
        writtenSchema: null,
        cipherVersion: null,
      };
      return { ...unknown, takesPassword: false, problem, paths: [] };
    },
  );
  const directory = packages.paths.find((path) => /\/(?:site|dist)-packages$/.test(path));
  return {
    python: describePython(python),
    canEncrypt: packages.takesPassword && packages.problem === null,
    problem: packages.problem,
    format: cipherFormat(packages),
    schemaVersion: findNewestSchema(packages),
    blacklistProblem: blacklistProblem(packages),
    isWritable: directory !== undefined && (await canWriteAs(account, directory)),
    directory,
  };
}

function findNewestSchema({ pluginManager, schemaVersion }: HubPackages): 0 | 2 | undefined {
  if (schemaVersion === null) return pluginManager === null ? undefined : 0;
  return schemaVersion >= 2 ? 2 : 0;
}
