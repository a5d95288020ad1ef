/** A run of every command, for the searches and for the schemas of its JSON document. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { armor } from "age-encryption";
import { encodeLetters, splitIntoLines } from "../../src/bundle/paper.js";
import type { Hit } from "./search.js";
import type { LeakWorld } from "./world.js";

export interface Scenario {
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

/**
 * By the command, which an option may follow: a further run of it.
 *
 * In this order: what is read first, then what changes, at last what replaces the store.
 */
export const scenarios: Record<string, Scenario> = {
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
  // rclone's own calls are searched, too.
  "backup --copy-to": {
    before: async ({ machine }) => {
      const settings = `[here]\ntype = alias\nremote = ${machine.path("remote")}\n`;
      await mkdir(machine.path("config", "rclone"), { recursive: true });
      await writeFile(machine.path("config", "rclone", "rclone.conf"), settings);
    },
    args: ({ machine }) => [
      ...["rclone:here:copies", "--copy-to", machine.path("disk")],
      ...["--copy-bundle-to", "rclone:here:bundles"],
    ],
  },
  verify: { args: (world) => [world.newest("backups")] },
  "verify --all": { args: () => ["rclone:here:copies"] },
  backups: {},
  "backups --all": { args: () => ["rclone:here:copies"] },
  "status --all": { args: () => ["rclone:here:copies"] },
  prune: { args: () => ["--keep-last", "1"] },
  "prune --keep-last": { args: () => ["1", "rclone:here:copies"] },
  export: {
    before: async ({ machine }) => {
      await mkdir(machine.path("medium"));
    },
    args: ({ machine }) => ["--to", machine.path("medium"), "--split", "8K"],
    short: true,
    once: true,
  },
  drill: { args: (world) => ["-i", world.recoveryKeyFile] },
  "drill --identity": { args: (world) => [world.recoveryKeyFile, "rclone:here:copies"] },
  "bundle export": { args: () => [] },
  "bundle import": {
    args: (world) => [world.newest("bundles"), "-i", world.recoveryKeyFile],
    short: true,
  },
  // The lines of a recovery sheet, as they are typed into a file.
  "bundle import --from-paper": {
    before: async (world) => {
      const bundle = armor.decode(await readFile(world.newest("bundles"), "utf8"));
      const lines = splitIntoLines(encodeLetters(bundle), 48);
      const typed = lines.map(({ label, letters, check }) => `${label} ${letters} ${check}\n`);
      await writeFile(world.machine.path("typed.txt"), typed.join(""));
    },
    args: ({ machine, recoveryKeyFile }) => [
      ...[machine.path("typed.txt"), "-o", machine.path("typed.age"), "-i", recoveryKeyFile],
    ],
    short: true,
    once: true,
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
  rotate: {
    args: () => [...alone, "--keep-previous"],
    // The child process that re-encrypts the store gets both keys through a pipe.
    asked: ({ secret, where }) => /derived key/.test(secret) && /^write to UNIX/.test(where),
    short: true,
  },
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
