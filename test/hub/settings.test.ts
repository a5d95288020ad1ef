/** `run` with settings that are broken: a typo must not keep the hub from starting. */
import { execFile } from "node:child_process";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { cli, type Home, makeHome, passphrase } from "./support.js";

let home: Home;
let secret: string;
let config: string;

beforeEach(async () => {
  home = await makeHome();
  secret = join(home.home, "passphrase");
  await writeFile(secret, `${passphrase}\n`, { mode: 0o600 });
  await mkdir(join(home.home, ".config/hivemind-sqlcipher"));
  config = join(home.home, ".config/hivemind-sqlcipher/config.json");
});
afterEach(() => home.remove());

async function run(...options: string[]) {
  const [program = "", ...args] = [
    ...cli,
    "run",
    ...options,
    "--",
    "/bin/sh",
    "-c",
    "echo started",
  ];
  return promisify(execFile)(program, args, { env: home.environment });
}

test.each([
  ["an unknown key", () => ({ recipient: [], passphrase_source: `file:${secret}` }), /recipient/],
  [
    "an invalid value",
    () => ({ keep: { last: "3" }, passphrase_source: `file:${secret}` }),
    /keep/,
  ],
])("%s is a warning, and the rest of the file counts", async (_what, contents, warning) => {
  await writeFile(config, JSON.stringify(contents()));
  const { stdout, stderr } = await run();
  expect(stdout).toBe("started\n");
  expect(stderr).toMatch(warning);
});

test("a file that is not JSON, others can change, or is gone: what the command names is enough", async () => {
  await writeFile(config, '{"store": ');
  const options = ["--db", home.storePath, "--passphrase-source", `file:${secret}`];
  const broken = await run(...options);
  expect([broken.stdout, broken.stderr]).toEqual(["started\n", expect.stringMatching(/not JSON/)]);
  await writeFile(config, "{}");
  await chmod(config, 0o666);
  const writable = await run(...options);
  expect([writable.stdout, writable.stderr]).toEqual([
    "started\n",
    expect.stringMatching(/can be changed/),
  ]);
  const gone = await run(...options, "--config", join(home.home, "gone.json"));
  expect([gone.stdout, gone.stderr]).toEqual(["started\n", expect.stringMatching(/gone\.json/)]);
});

test("any other command refuses the file, with a hint that works", async () => {
  await writeFile(config, '{"store": ');
  const [program = "", ...args] = [...cli, "list-clients"];
  await expect(promisify(execFile)(program, args, { env: home.environment })).rejects.toMatchObject(
    {
      code: 2,
      stderr: expect.stringMatching(
        /not JSON: line 1[\s\S]*mv '.*' '.*\.broken' && hivemind-sqlcipher backup/,
      ),
    },
  );
});
