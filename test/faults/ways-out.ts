/**
 * What is left when an operation was killed and a part that it needs is missing: which commands
 * still work, what the others print, and whether that works.
 */
import { execFile, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { deleteEntry, listEntries, setEntry } from "../../src/keys/keyring.js";
import { Journal } from "../../src/operation/journal.js";
import { root } from "../built.js";
import { type Answer, Machine } from "../cli/machine.js";
import { holding, removeUnits, systemctl, uniqueName, writeUnits } from "../service/units.js";
import { fixturePassphrases, fixtures } from "../store/temporary.js";

const exec = promisify(execFile);
const sqlite = "hivemind-sqlite-db-plugin";
const json = "hivemind-json-db-plugin";
const fixture = "sqlcipher4-schema2.db";
const passphrase = fixturePassphrases[fixture] ?? "";

/** The parts that may be missing. */
export const parts = [
  "keyring gone",
  "keyring locked",
  "bundles gone",
  "backups gone",
  "store gone",
  "unit gone",
  "server.json gone",
  "server.json broken",
  "temporary file gone",
] as const;

export type Part = (typeof parts)[number];

export interface Kind {
  readonly name: string;
  /** The steps at which it is killed. */
  readonly steps: readonly string[];
  readonly base: "encrypted" | "plain" | "foreign" | "json" | "schema1";
  readonly args: readonly string[];
  /** Whether a unit has the store open. */
  readonly unit?: boolean;
  /** Whether the password is in server.json. */
  readonly password?: boolean;
}

const noHub = ["--hub", "none"];

export const kinds: readonly Kind[] = [
  {
    ...{ name: "backup", base: "encrypted", args: ["backup"], unit: true },
    steps: ["backup.warm", "backup.stopped", "backup.copied", "backup.verified", "backup.claimed"],
  },
  {
    ...{ name: "encrypt", base: "plain", args: ["encrypt", ...noHub] },
    steps: ["encrypt.pending-kept", "encrypt.bundled", "encrypt.renamed", "encrypt.promoted"],
  },
  {
    ...{ name: "decrypt", base: "encrypted", args: ["decrypt", "--yes"], password: true },
    steps: ["decrypt.staged", "decrypt.filled", "decrypt.renamed", "decrypt.server-json"],
  },
  {
    ...{ name: "rotate", base: "encrypted", args: ["rotate"], password: true },
    steps: ["rotate.staged", "rotate.bundled", "rotate.renamed", "rotate.server-json"],
  },
  {
    ...{ name: "rotate with a unit", base: "encrypted", args: ["rotate", ...noHub], unit: true },
    steps: ["rotate.stopped", "rotate.renamed", "rotate.starting"],
  },
  {
    ...{ name: "restore", base: "encrypted", args: ["restore", "BACKUP", "--yes", ...noHub] },
    steps: [
      "restore.copied",
      "restore.staged",
      "restore.filled",
      "restore.renamed",
      "restore.promoted",
    ],
  },
  {
    name: "adopt",
    base: "foreign",
    args: ["init", "--adopt", "--remove-password", ...noHub, "--bundle-to", "BUNDLES"],
    steps: ["adopt.pending-kept", "adopt.bundled", "adopt.taking", "adopt.promoted"],
    password: true,
  },
  {
    ...{ name: "upgrade-schema", base: "schema1", args: ["upgrade-schema", "--yes"], unit: true },
    steps: ["upgrade-schema.stopped", "upgrade-schema.migrated"],
  },
  { name: "setup", base: "encrypted", args: [], steps: ["setup.stopped"], unit: true },
  {
    ...{ name: "restore-into", base: "json", unit: true, steps: ["restore-into.writing"] },
    args: ["restore", "BACKUP", "--into", json, "--discard-replaced", "--yes", "-i", "KEY"],
  },
  {
    ...{ name: "migrate", base: "json", steps: ["migrate.copied", "migrate.compared"] },
    args: ["migrate", "--from", json, "--to", "hivemind-sqlcipher-db-plugin", "--switch", ...noHub],
  },
];

/** How the missing part is dealt with. */
export const ends = ["it comes back", "it is gone for good"] as const;

export interface Case {
  readonly kind: Kind;
  readonly step: string;
  readonly part: Part;
  readonly end: (typeof ends)[number];
}

/** Returns whether a part can be missing there. */
function applies({ unit, password, base }: Kind, part: Part): boolean {
  if (part === "unit gone") return unit === true;
  if (part.startsWith("server.json")) return password === true || base === "json";
  return true;
}

export function allCases(): Case[] {
  return kinds.flatMap((kind) =>
    kind.steps.flatMap((step) =>
      parts
        .filter((part) => applies(kind, part))
        .flatMap((part) => ends.map((end) => ({ kind, step, part, end }))),
    ),
  );
}

export function nameOf({ kind, step, part, end }: Case): string {
  return `${kind.name} killed at ${step}, ${part}: ${end}`;
}

/** The machine before an operation, and the entries of its keyring. */
interface Base {
  readonly entries: { slot: string; secret: string }[];
  readonly backup: string;
}

/** Runs cases on one machine, which has the same path each time: journals have absolute paths. */
export class Ward {
  readonly #machine: Machine;
  readonly #bases = new Map<string, Base>();
  readonly #lockedBus: NodeJS.ProcessEnv;
  /** Files with the passphrases that were kept when the operation was killed. */
  #secrets: string[] = [];

  /** @param lockedBus - the environment of a bus with a locked keyring */
  constructor(folder: string, lockedBus: NodeJS.ProcessEnv) {
    this.#machine = Machine.in(join(folder, "machine"));
    this.#lockedBus = lockedBus;
  }

  get #path() {
    const machine = this.#machine;
    return {
      journal: `${machine.store}.journal.json`,
      bundles: machine.path("bundles"),
      backups: machine.path("backups"),
      away: machine.path("away"),
      server: machine.path("config", "hivemind-core", "server.json"),
      key: machine.path("safe", "recovery-key.txt"),
      secret: machine.path("safe", "passphrase.txt"),
      clients: machine.path("data", "hivemind-core", "clients.json"),
    };
  }

  /** @returns the violations as sentences; empty if there are none */
  async run(tried: Case): Promise<string[]> {
    const { kind, step, part, end } = tried;
    const base = await this.#restoreBase(kind);
    const unit = kind.unit ? uniqueName() : undefined;
    const path = this.#path;
    try {
      if (unit) await this.#startUnit(kind, unit);
      const killed = await this.#kill(kind, step, base, unit);
      if (killed !== undefined) return [killed];
      await this.#keepPassphrases();
      const back = await this.#takeAway(kind, part, unit);
      const wrong = await this.#checkOthers(tried, base);
      const said = await this.#settle(part);
      if (existsSync(path.journal)) {
        wrong.push(...(await this.#checkMessages(part, said)));
        if (end === "it comes back") await back();
        else wrong.push(...(await this.#follow(said)));
        const after = await this.#settle(end === "it comes back" ? undefined : part);
        if (after.code !== 0) wrong.push(`the way does not end it: ${after.stderr}`);
      } else await back();
      if (existsSync(path.journal)) wrong.push("the journal is still there");
      const isGone = end === "it is gone for good";
      if (isGone && (part === "store gone" || needsServerJson(kind, part))) return wrong;
      const listed = await this.#list(kind, end === "it comes back" ? undefined : part);
      if (listed.code !== 0) wrong.push(`the store does not open: ${listed.stderr}`);
      return wrong;
    } finally {
      if (unit) await removeUnits(`${unit}.service`);
      await this.#forget();
    }
  }

  async #restoreBase(kind: Kind): Promise<Base> {
    const name = `${kind.base}${kind.password ? "-password" : ""}`;
    const saved = `${this.#machine.folder}.${name}`;
    await rm(this.#machine.folder, { recursive: true, force: true });
    const known = this.#bases.get(name);
    if (known) {
      await exec("cp", ["-a", saved, this.#machine.folder]);
      for (const { slot, secret } of known.entries) {
        await setEntry(this.#machine.store, slot as "current", secret);
      }
      return known;
    }
    await this.#forget();
    const backup = await this.#make(kind);
    const entries = await listEntries(this.#machine.store);
    const base = { entries, backup };
    this.#bases.set(name, base);
    await exec("cp", ["-a", this.#machine.folder, saved]);
    return base;
  }

  async #forget(): Promise<void> {
    for (const { slot } of await listEntries(this.#machine.store)) {
      await deleteEntry(this.#machine.store, slot);
    }
  }

  /** Makes the machine, and returns the path of its backup. */
  async #make({ base, password }: Kind): Promise<string> {
    const machine = this.#machine;
    const path = this.#path;
    for (const directory of [dirname(machine.store), dirname(path.key), dirname(path.server)]) {
      await mkdir(directory, { recursive: true });
    }
    for (const directory of [path.bundles, path.backups]) await mkdir(directory, { mode: 0o700 });
    const adopt = ["init", "--adopt", "--service", "none", ...noHub];
    const directories = ["--bundle-to", path.bundles, "--to", path.backups];
    const key = ["--recovery-key-file", path.key];
    await cp(join(fixtures, fixture), machine.store);
    if (base === "schema1") {
      await rm(machine.store);
      await cp(join(fixtures, "plain-schema1.db"), machine.store);
      await this.#must(["encrypt", "--service", "none", ...noHub, ...directories, ...key]);
    } else {
      await writeFile(path.secret, `${passphrase}\n`, { mode: 0o600 });
      await this.#must([...adopt, "--passphrase-file", path.secret, ...directories, ...key]);
    }
    await this.#must(["backup", "--service", "none"]);
    const backups = await readdir(path.backups);
    const backup = join(path.backups, backups.find((name) => name.endsWith(".db")) ?? "");
    if (base === "encrypted")
      await this.#must(["rotate", "--keep-previous", "--service", "none", ...noHub]);
    if (base === "plain") {
      await this.#must(["decrypt", "--yes", "--service", "none", ...noHub]);
      await this.#forget();
    }
    if (base === "foreign") {
      await this.#forget();
      await rm(path.bundles, { recursive: true });
      await mkdir(path.bundles, { mode: 0o700 });
    }
    if (base === "json") {
      await this.#must(["migrate", "--from", "hivemind-sqlcipher-db-plugin", "--to", json]);
      await rm(machine.store);
      await this.#forget();
    }
    await this.#writeServerJson(base, password ? await this.#currentPassphrase() : undefined);
    return backup;
  }

  async #currentPassphrase(): Promise<string> {
    const entries = await listEntries(this.#machine.store);
    return entries.find(({ slot }) => slot === "current")?.secret ?? passphrase;
  }

  async #writeServerJson(base: Kind["base"], password: string | undefined): Promise<void> {
    const module = base === "json" ? json : sqlite;
    const settings = { network_protocol: {}, database: { module, [module]: { password } } };
    await writeFile(this.#path.server, JSON.stringify(settings));
  }

  async #must(args: string[]): Promise<void> {
    const { code, stderr } = await this.#machine.run(args);
    if (code !== 0) throw new Error(`${args.join(" ")}: ${stderr}`);
  }

  async #startUnit(kind: Kind, unit: string): Promise<void> {
    await writeUnits({ [`${unit}.service`]: holding(this.#databaseOf(kind)) });
    await systemctl("start", unit);
  }

  #databaseOf({ base }: Kind): string {
    return base === "json" ? this.#path.clients : this.#machine.store;
  }

  /** @returns what went wrong; undefined once it is killed */
  async #kill(
    { name, base, args }: Kind,
    step: string,
    { backup }: Base,
    unit: string | undefined,
  ): Promise<string | undefined> {
    const service = unit ? ["--service", "systemd-user", "--unit", unit] : ["--service", "none"];
    if (name === "setup") {
      await systemctl("stop", unit ?? "");
      const stopped = { service: "systemd-user", unit, dependents: [] };
      await Journal.begin(this.#machine.store, "setup", "stopping", { stopped });
      await this.#endProcessOfJournal();
      return undefined;
    }
    if (name === "migrate") {
      await this.#must(["init", "--recovery-key-file", `${this.#path.key}.2`]);
    }
    const { bundles: BUNDLES, key: KEY } = this.#path;
    const known: Record<string, string> = { BACKUP: backup, BUNDLES, KEY };
    const line = args.map((arg) => known[arg] ?? arg);
    const needsKey = args[0] === "encrypt" || args[0] === "init";
    const { code, stderr } = await this.#machine.run(
      [
        ...line,
        ...(name === "migrate" ? [] : service),
        ...(needsKey && base !== "plain" ? ["--recovery-key-file", `${this.#path.key}.2`] : []),
      ],
      {
        env: {
          NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
          HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: "kill" }),
        },
      },
    );
    if (unit) await this.#cancelTimer();
    return code === null ? undefined : `it was not killed: ${code} ${stderr}`;
  }

  /** Names an ended process in the journal: commands would wait a minute for this process. */
  async #endProcessOfJournal(): Promise<void> {
    const entry = JSON.parse(await readFile(this.#path.journal, "utf8"));
    const { pid } = spawnSync("true");
    await writeFile(this.#path.journal, JSON.stringify({ ...entry, pid }));
  }

  /** The restart timer would start the unit in a minute or so. */
  async #cancelTimer(): Promise<void> {
    const text = await readFile(this.#path.journal, "utf8").catch(() => "");
    const [timer] = /hivemind-sqlcipher-restart-\w+/.exec(text) ?? [];
    if (timer) await systemctl("stop", `${timer}.timer`).catch(() => undefined);
  }

  /** Writes down the kept passphrases: a recovery may put back a store with an earlier one. */
  async #keepPassphrases(): Promise<void> {
    const kept = (await listEntries(this.#machine.store)).map(({ secret }) => secret);
    this.#secrets = [];
    for (const secret of new Set([passphrase, ...kept])) {
      const file = `${this.#path.secret}.${this.#secrets.length}`;
      await writeFile(file, `${secret}\n`, { mode: 0o600 });
      this.#secrets.push(file);
    }
  }

  /** @returns a function that brings the part back */
  async #takeAway(kind: Kind, part: Part, unit: string | undefined): Promise<() => Promise<void>> {
    const path = this.#path;
    const { away } = path;
    const moved = {
      "bundles gone": path.bundles,
      "backups gone": path.backups,
      "store gone": this.#machine.store,
      "server.json gone": path.server,
    }[part as string];
    if (moved !== undefined) {
      if (!existsSync(moved)) return async () => undefined;
      await rename(moved, away);
      return async () => {
        if (existsSync(away) && !existsSync(moved)) await rename(away, moved);
      };
    }
    if (part === "server.json broken") {
      const text = await readFile(path.server, "utf8");
      await writeFile(path.server, "{ broken");
      return () => writeFile(path.server, text);
    }
    if (part === "unit gone" && unit) {
      await removeUnits(`${unit}.service`);
      return () => writeUnits({ [`${unit}.service`]: holding(this.#databaseOf(kind)) });
    }
    if (part === "temporary file gone") {
      const text = await readFile(path.journal, "utf8").catch(() => "{}");
      const { staged = [] } = JSON.parse(text).data ?? {};
      const files = [typeof staged === "string" ? staged : Object.values(staged)].flat(2);
      for (const file of files as string[]) await rm(file, { force: true });
    }
    return async () => undefined;
  }

  #environment(part: Part | undefined): NodeJS.ProcessEnv {
    if (part === "keyring locked") return this.#lockedBus;
    if (part !== "keyring gone") return {};
    return { DBUS_SESSION_BUS_ADDRESS: "unix:path=/nonexistent" };
  }

  /** Runs a command without the part. A broken server.json does not name the store. */
  #run(args: readonly string[], part: Part | undefined): Promise<Answer> {
    const store = part === "server.json broken" ? ["--db", this.#machine.store] : [];
    return this.#machine.run([...args, ...store], { env: this.#environment(part) });
  }

  /** Lists the clients; without the keyring if it is missing, or has nothing of this store. */
  async #list({ base }: Kind, part: Part | undefined): Promise<Answer> {
    const isWithout = base === "foreign" || part?.startsWith("keyring");
    if (!isWithout) return this.#run(["list-clients"], part);
    let answer: Answer | undefined;
    for (const file of this.#secrets) {
      const source = ["--passphrase-source", `command:cat ${file}`];
      answer = await this.#run(["list-clients", ...source], part);
      if (answer.code !== 12) return answer;
    }
    return answer as Answer;
  }

  /** Runs only the recovery. `stderr` has all that it printed. */
  async #settle(part: Part | undefined): Promise<Answer> {
    const { stdout, stderr, ...rest } = await this.#run(["settle"], part);
    return { ...rest, stdout, stderr: stdout + stderr };
  }

  /** Checks the commands that do not need the part. */
  async #checkOthers({ kind, part }: Case, { backup }: Base): Promise<string[]> {
    const wrong: string[] = [];
    const path = this.#path;
    const run = async (args: string[], expected: readonly number[]) => {
      const { code, stderr, stdout } = await this.#run(args, part);
      if (!expected.includes(code ?? -1)) wrong.push(`${args[0]} ended with ${code}: ${stderr}`);
      return stdout;
    };
    await run(["status", "--json"], [0]);
    const text = await run(["doctor", "--json"], [0, 1]);
    wrong.push(...checkDoctor(text, existsSync(path.journal) ? path.journal : undefined));
    if (part !== "backups gone") {
      await run(["backups", path.backups, "--json"], [0]);
      // Before an adoption there is no bundle.
      const hasBundle = part !== "bundles gone" && kind.base !== "foreign";
      if (hasBundle) await run(["verify", backup, "--identity", path.key], [0]);
    }
    if (part === "store gone" || needsServerJson(kind, part)) return wrong;
    const listed = await this.#list(kind, part);
    if (listed.code !== 0) wrong.push(`list-clients ended with ${listed.code}: ${listed.stderr}`);
    return wrong;
  }

  /** Checks that the message names the journal, a command and the risk. */
  async #checkMessages(part: Part, { code, stderr }: Answer): Promise<string[]> {
    const { journal } = this.#path;
    const wrong = code === 0 && part !== "backups gone" && part !== "bundles gone";
    return [
      ...(wrong ? ["the journal is left without an error"] : []),
      ...(stderr.includes(journal) ? [] : [`no file is named: ${stderr}`]),
      ...(/(?:mv|rm) '/.test(stderr) ? [] : [`no command is named: ${stderr}`]),
      ...(/neither finished nor undone|then stay|is no longer needed/.test(stderr)
        ? []
        : [`no risk is named: ${stderr}`]),
    ];
  }

  /** Types the commands that the message names. */
  async #follow({ stderr }: Answer): Promise<string[]> {
    const commands = stderr.match(/(?:mv '[^']+' '[^']+'|rm '[^']+')/g) ?? [];
    for (const command of commands) {
      const failure = await exec("/bin/sh", ["-c", command]).then(
        () => undefined,
        (error: Error) => error.message,
      );
      if (failure !== undefined) return [`the command fails: ${failure}`];
    }
    return [];
  }
}

/** Returns whether only server.json names the database with the clients. */
function needsServerJson({ name }: Kind, part: Part): boolean {
  return name === "restore-into" && part.startsWith("server.json");
}

/** Checks that doctor names the journal, the command and the risk. */
function checkDoctor(text: string, journal: string | undefined): string[] {
  if (journal === undefined) return [];
  const { checks = [] } = JSON.parse(text || "{}") as {
    checks?: { name: string; detail: string; fix: string | null }[];
  };
  const found = checks.find(({ name }) => name === "interrupted");
  const isComplete =
    found?.detail.includes(journal) &&
    found.fix?.includes(`mv '${journal}'`) &&
    found.fix.includes("only the journal records");
  return isComplete ? [] : [`doctor: ${JSON.stringify(found)} ${text.slice(0, 300)}`];
}
