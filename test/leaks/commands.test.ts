/**
 * No command shows a secret to anybody: not in an argument, an environment, a name, a file, a pipe
 * or a socket, and not in what it prints, with --verbose and with --json. Which commands there are
 * is the grammar's to say, so that none can be forgotten.
 *
 * All of them, in both forms, with PROVE=1; some otherwise.
 */
import { rm, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { everyCommand, grammarOf } from "../../src/cli/docs/grammar.js";
import { buildProgram } from "../../src/cli/program.js";
import { Output } from "../../src/cli/ui/output.js";
import { proving, report } from "../prove-report.js";
import {
  type Hit,
  hitsIn,
  hitsInFiles,
  hitsInTrace,
  needlesOf,
  readTrace,
  strace,
} from "./search.js";
import { LeakWorld } from "./world.js";

interface Scenario {
  /** What stands behind the command's words. */
  readonly args?: (world: LeakWorld) => string[];
  readonly before?: (world: LeakWorld) => Promise<void>;
  readonly input?: string;
  /** The exit code of the first run. Default: 0. */
  readonly code?: number;
  /** What is shown because it was asked for, or is the command's work. */
  readonly asked?: (hit: Hit) => boolean;
  /** Whether it is in the short form as well. */
  readonly short?: boolean;
  readonly after?: (world: LeakWorld) => Promise<void>;
  /** Whether a second run would not be of the same thing. */
  readonly once?: boolean;
}

const alone = ["--service", "none", "--hub", "none"];
const isClients = ({ secret }: Hit) => /of client/.test(secret);
const onStdout = ({ where }: Hit) => /^stdout|^write to (pipe|UNIX|socket)/.test(where);
const toggle: Scenario = { args: () => ["2"] };

/** In this order: what is read first, then what changes, at last what replaces the store. */
const scenarios: Record<string, Scenario> = {
  status: { short: true },
  doctor: { code: 1 },
  "list-clients": { short: true },
  "show-client": { args: () => ["1"] },
  "find-client": { args: () => ["--by", "name", "hall"] },
  // A new client's credentials are printed once.
  "add-client": {
    args: () => ["--name", "cellar"],
    asked: (hit) => isClients(hit) && /client [4-9]/.test(hit.secret) && onStdout(hit),
    short: true,
  },
  "rename-client": { args: () => ["2", "--name", "hall, upstairs"] },
  "make-admin": toggle,
  "revoke-admin": toggle,
  "allow-escalate": toggle,
  "blacklist-escalate": toggle,
  "allow-propagate": toggle,
  "blacklist-propagate": toggle,
  "allow-broadcast": toggle,
  "blacklist-broadcast": toggle,
  "allow-msg": { args: () => ["speak", "2"] },
  "blacklist-msg": { args: () => ["speak", "2"] },
  "allow-skill": { args: () => ["skill-a", "2"] },
  "blacklist-skill": { args: () => ["skill-a", "2"] },
  "allow-intent": { args: () => ["skill-a:b", "2"] },
  "blacklist-intent": { args: () => ["skill-a:b", "2"] },
  "export-clients": { args: ({ machine }) => ["--path", machine.path("list.csv")], once: true },
  "import-clients": {
    before: async ({ machine }) => {
      const client = {
        ...{ client_id: 9, name: "new", api_key: "imported-access-key-0001" },
        ...{ password: "imported-password-0001", crypto_key: "imported-crypto1" },
      };
      await writeFile(machine.path("import.json"), JSON.stringify({ clients: [client] }));
    },
    args: ({ machine }) => [machine.path("import.json"), "--yes"],
    short: true,
  },
  // There is no such unit, so setup ends after its survey.
  setup: { args: () => ["--unit", "no-such-hub", "--yes"], code: 10, short: true },
  sql: { args: () => ["SELECT client_id, name FROM clients"], short: true },
  plugins: {},
  backup: { short: true },
  verify: { args: (world) => [world.newest("backups")] },
  backups: {},
  prune: { args: () => ["--keep-last", "1"] },
  drill: { args: (world) => ["-i", world.recoveryKeyFile] },
  "bundle export": { args: () => [] },
  "bundle import": {
    args: (world) => [world.newest("bundles"), "-i", world.recoveryKeyFile],
    short: true,
  },
  "bundle show": {
    args: (world) => [world.newest("bundles"), "-i", world.recoveryKeyFile],
    short: true,
  },
  "bundle print": {
    args: (world) => [
      ...[world.newest("bundles"), "-i", world.recoveryKeyFile],
      ...["-o", world.machine.path("sheet.html")],
    ],
    once: true,
  },
  "schedule install": { code: 17 },
  "schedule status": {},
  "schedule remove": { code: 10 },
  "metrics install": { args: ({ machine }) => [machine.path("metrics.prom")] },
  "metrics remove": { once: true },
  completion: { args: () => ["bash"] },
  settle: {},
  // The hub is shown its passphrase in memory: through a pipe, by a shell that has the right to
  // mount.
  run: {
    args: () => [
      "--",
      "/bin/sh",
      "-c",
      'grep -c password "$XDG_CONFIG_HOME/hivemind-core/server.json"',
    ],
    asked: ({ where }) =>
      /^write to (pipe|UNIX|socket|\/(dev\/shm|tmp|mnt)\/server\.json)/.test(where),
    short: true,
  },
  "upgrade-schema": { args: () => ["--service", "none", "--yes"] },
  migrate: {
    args: ({ machine }) => [
      ...["--from", "hivemind-sqlcipher-db-plugin", "--to", "hivemind-json-db-plugin"],
      ...["--to-setting", `name=copy`, "--yes"],
      ...["--db", machine.store],
    ],
    // The other database is one in plain text.
    asked: (hit) => isClients(hit) && /hivemind-core\/.*copy/.test(hit.where),
    after: ({ machine }) => rm(machine.path("data/hivemind-core/copy.json")),
    once: true,
  },
  restore: { args: (world) => [world.newest("backups"), ...alone, "--yes"], short: true },
  rotate: { args: () => [...alone, "--keep-previous"], short: true },
  "delete-client": { args: () => ["3"] },
  decrypt: {
    args: () => [...alone, "--yes"],
    // That is what it is for: the clients, but not the passphrase, in plain text.
    asked: (hit) => isClients(hit) && /hivemind-core\//.test(hit.where),
    short: true,
    once: true,
  },
  encrypt: { args: () => alone, asked: () => false, once: true, short: true },
  init: {
    args: ({ machine, newRecoveryKeyFile }) => [
      ...["--db", machine.path("new.db"), "--config", machine.path("new.json")],
      ...["--recovery-key-file", newRecoveryKeyFile],
      ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
    ],
    // The new recovery key, in the file that was named for it.
    asked: ({ secret, where }) =>
      /recovery key/.test(secret) && /new-recovery-key\.txt/.test(where),
    short: true,
    once: true,
  },
};

const grammar = grammarOf(
  await buildProgram(new Output({ json: false, quiet: false, verbose: false, color: false })),
);

test("every command of the grammar is among those that are searched", () => {
  const leaves = everyCommand(grammar).filter(({ commands }) => commands.length === 0);
  const names = leaves.map((leaf) => leaf.names.join(" "));
  expect(Object.keys(scenarios).toSorted()).toEqual([...names, "settle"].toSorted());
});

test("no command shows a secret where it was not asked to", async () => {
  const world = await LeakWorld.make();
  const { machine } = world;
  const found: string[] = [];
  const wrongCodes: string[] = [];
  let tried = 0;
  let secrets = await world.secrets();
  for (const [name, scenario] of Object.entries(scenarios)) {
    if (!proving && !scenario.short) continue;
    const forms =
      scenario.once || !proving ? [["--verbose", "--json"]] : [["--verbose"], ["--json"]];
    await scenario.before?.(world);
    for (const [nth, form] of forms.entries()) {
      const log = machine.path("trace");
      const args = scenario.args?.(world) ?? [];
      const dashes = args.indexOf("--");
      const [own, hubs] = dashes === -1 ? [args, []] : [args.slice(0, dashes), args.slice(dashes)];
      const { code, stdout, stderr } = await machine.run(
        [...name.split(" "), ...own, ...form, ...hubs],
        {
          before: strace(log),
          env: { TMPDIR: machine.path("tmp"), PWD: machine.folder },
          ...(scenario.input !== undefined && { input: scenario.input }),
        },
      );
      const traced = await readTrace(log);
      const after = await world.secrets();
      const needles = needlesOf([...secrets, ...after]);
      secrets = after;
      const except = [log, ...world.secretFiles, machine.path("import.json")];
      const hits = [
        ...hitsInTrace(traced, needles),
        ...hitsIn(Buffer.from(stdout), "stdout", needles),
        ...hitsIn(Buffer.from(stderr), "stderr", needles),
        ...hitsInFiles(machine.folder, needles, except),
      ].filter((hit) => !(scenario.asked?.(hit) ?? false));
      tried += 1;
      if (nth === 0 && code !== (scenario.code ?? 0))
        wrongCodes.push(`${name}: ${code} ${stderr} ${stdout}`);
      expect(traced.calls, name).toBeGreaterThan(1);
      for (const { secret, encoding, where } of hits) {
        found.push(`${name} ${form.join(" ")}: ${secret}, ${encoding}: ${where}`);
      }
    }
    await scenario.after?.(world);
  }
  report(
    "commands under strace: no secret where it does not belong",
    tried,
    new Set(found.map((line) => line.split(":")[0])).size,
  );
  expect(found).toEqual([]);
  expect(wrongCodes).toEqual([]);
}, 1_200_000);
