/**
 * What a command says of a file that it does not understand never quotes from it: a password stands
 * in `server.json`, and clients' credentials in what is imported. Node's own errors do quote.
 */
import { chmod, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { proving, report } from "../prove-report.js";
import { hitsIn, hitsInFiles, needlesOf, text } from "./search.js";
import { LeakWorld, passphrase } from "./world.js";

const canary = "CANARY-5f4dcc3b5aa7";

interface Mishap {
  readonly what: string;
  readonly prepare?: (world: LeakWorld) => Promise<unknown>;
  readonly args: (world: LeakWorld) => string[];
  readonly env?: (world: LeakWorld) => Record<string, string>;
}

/** Contents with the canary in every place where a parser may stop. */
const broken = [
  `{"a": ${canary}}`,
  `{"password": "${canary}" "b"}`,
  `${canary}`,
  `{"database": {"module": "hivemind-sqlite-db-plugin", "hivemind-sqlite-db-plugin": {"password": "${canary}",}`,
  `[{"client_id": "${canary}", "api_key": "${canary}"}]`,
  `{"1": {"client_id": "${canary}", "api_key": ["${canary}"], "${canary}": 1}}`,
  `{"clients": [{"client_id": 1, "api_key": "${canary}", "is_admin": "${canary}"}]}`,
];

const file = (world: LeakWorld, name: string) => world.machine.path(name);
const private600 = async (path: string, contents: string | Buffer) => {
  await writeFile(path, contents, { mode: 0o600 });
  await chmod(path, 0o600);
};

const mishaps: Mishap[] = [
  ...broken.flatMap((contents, index): Mishap[] => [
    {
      what: `server.json ${index}`,
      prepare: (world) => private600(world.serverJson, contents),
      args: () => ["doctor"],
    },
    {
      what: `server.json ${index}, run`,
      prepare: (world) => private600(world.serverJson, contents),
      args: () => ["run", "--", "/bin/true"],
    },
    {
      what: `clients.json ${index}`,
      prepare: (world) => private600(file(world, "data/hivemind-core/clients.json"), contents),
      args: () => [
        ...["migrate", "--from", "hivemind-json-db-plugin", "--dry-run"],
        ...["--to", "hivemind-sqlcipher-db-plugin"],
      ],
    },
    {
      what: `import ${index}`,
      prepare: (world) => private600(file(world, "in.json"), contents),
      args: (world) => ["import-clients", file(world, "in.json")],
    },
  ]),
  ...[
    `client_id,name,is_admin,access_key,password,crypto_key\n1,a,maybe,${canary},${canary},${canary}\n`,
    `client_id,name,is_admin,access_key,password,crypto_key\n${canary},a,True,${canary},x,y\n`,
    `client_id,name,is_admin,access_key,password,crypto_key\n1,"a,True,${canary}\n`,
    `client_id,name,access_key,${canary}\n1,a,${canary},${canary},more\n`,
    `client_id,name,is_admin,access_key,password,crypto_key\n1,a,True,revoked,${canary},${canary}${canary}\n`,
  ].map(
    (contents, index): Mishap => ({
      what: `CSV ${index}`,
      prepare: (world) => private600(file(world, "in.csv"), contents),
      args: (world) => ["import-clients", file(world, "in.csv")],
    }),
  ),
  {
    what: "a passphrase file with another's passphrase",
    prepare: (world) => private600(file(world, "other"), canary),
    args: (world) => ["list-clients", "--passphrase-source", `file:${file(world, "other")}`],
  },
  {
    what: "a passphrase file with a NUL",
    prepare: (world) => private600(file(world, "other"), `${canary}\0x`),
    args: (world) => ["list-clients", "--passphrase-source", `file:${file(world, "other")}`],
  },
  {
    what: "a passphrase file that is not UTF-8",
    prepare: (world) =>
      private600(file(world, "other"), Buffer.concat([Buffer.from(canary), Buffer.from([0xff])])),
    args: (world) => ["list-clients", "--passphrase-source", `file:${file(world, "other")}`],
  },
  {
    what: "a passphrase of the form of a raw key",
    prepare: (world) => private600(file(world, "other"), `x'${"5f4dcc3b5aa765d6".repeat(4)}'`),
    args: (world) => ["list-clients", "--passphrase-source", `file:${file(world, "other")}`],
  },
  {
    what: "a mistyped recovery key",
    prepare: (world) =>
      private600(
        file(world, "key"),
        world.recoveryKey.identity.replace(/.$/, "Q").replace("1Q", "1P"),
      ),
    args: (world) => ["bundle", "import", file(world, "none.age"), "-i", file(world, "key")],
  },
  {
    what: "a recovery key for a recipient, in the settings",
    prepare: (world) => world.writeSettings({ recipients: [world.recoveryKey.identity] }),
    args: (world) => ["bundle", "export", "--bundle-to", file(world, "bundles")],
  },
  {
    what: "another key in the settings",
    prepare: (world) => world.writeSettings({ passphrase: canary, recipients: [] }),
    args: () => ["status"],
  },
  {
    what: "a secret as the passphrase source",
    args: () => ["status"],
    env: () => ({ HIVEMIND_SQLCIPHER_PASSPHRASE_SOURCE: canary }),
  },
  {
    what: "a Redis password that is wrong or not needed, and nobody there",
    prepare: (world) =>
      private600(
        world.serverJson,
        JSON.stringify({
          database: {
            module: "hivemind-redis-db-plugin",
            "hivemind-redis-db-plugin": { host: "127.0.0.1", port: 1, password: canary },
          },
        }),
      ),
    args: () => [
      ...["migrate", "--from", "hivemind-redis-db-plugin", "--dry-run"],
      ...["--to", "hivemind-sqlcipher-db-plugin"],
    ],
  },
];

test("an error, also with --verbose, quotes no secret from what it is about", async () => {
  const tried = mishaps.filter((_, index) => proving || index % 5 === 0);
  const found: string[] = [];
  let fine = 0;
  const world = await LeakWorld.make();
  const { machine } = world;
  const needles = needlesOf([
    text("the canary", canary),
    text("a raw key", "5f4dcc3b5aa765d6".repeat(4)),
    text("the passphrase", passphrase),
    text("most of the recovery key", world.recoveryKey.identity.slice(20, -2)),
  ]);
  const settings = {
    recipients: [world.recoveryKey.recipient],
    backup: { to: machine.path("backups"), bundle_to: machine.path("bundles"), service: "none" },
  };
  for (const { what, prepare, args, env } of tried) {
    await world.writeSettings(settings);
    await world.writeServerJson();
    await prepare?.(world);
    for (const form of proving ? [["--verbose"], ["--json"]] : [["--verbose", "--json"]]) {
      const given = args(world);
      const at = given[0] === "run" ? 1 : given.length;
      const { code, stdout, stderr } = await machine.run(given.toSpliced(at, 0, ...form), {
        env: { TMPDIR: machine.path("tmp"), ...env?.(world) },
      });
      if (code === 0) fine += 1;
      for (const hit of hitsIn(Buffer.from(stdout + stderr), "shown", needles)) {
        found.push(`${what}: ${hit.secret}, ${hit.encoding}: ${stdout}${stderr}`);
      }
    }
  }
  const left = hitsInFiles(machine.path("tmp"), needles, []);
  report("errors about files with secrets in them: nothing quoted", tried.length, found.length);
  expect([...found, ...left]).toEqual([]);
  // These are errors, or nearly all of them.
  expect(fine).toBeLessThan(tried.length / 2);
}, 600_000);
