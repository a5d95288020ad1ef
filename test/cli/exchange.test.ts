/** Clients to files and back, as a user does it. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { type Client, serializeClient } from "../../src/client/client.js";
import { formatJson, type JsonObject, parseJson } from "../../src/client/json.js";
import { awkwardClients } from "../../src/databases/conformance.js";
import { Machine } from "./machine.js";
import { onTerminal } from "./terminal.js";

test("clients go out and come back: CSV or JSON by the path, secrets only when asked for, nothing overwritten", async () => {
  const machine = await Machine.make();
  await machine.init();
  await machine.run(["add-client", "--name", "kitchen", "--access-key", "kkk"]);
  const shy = await machine.run(["export-clients"]);
  expect([shy.code, shy.stdout]).toEqual([
    0,
    '"client_id","name","is_admin"\r\n"1","kitchen","false"\r\n',
  ]);
  const before = ["env", "-C", machine.folder];
  for (const file of [["-"], ["--path", "-"]]) {
    const piped = await machine.run(["export-clients", ...file], { before });
    expect([piped.code, piped.stdout]).toEqual([0, shy.stdout]);
  }
  expect(await readdir(machine.folder)).not.toContain("-");
  const path = machine.path("clients.json");
  const { code, document } = await machine.json("export-clients", "--path", path, "--show-secrets");
  expect([code, document]).toEqual([
    0,
    { export: { path, format: "json", clients: 1, secrets: true } },
  ]);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const over = await machine.run(["export-clients", path]);
  expect([over.code, over.stderr]).toEqual([
    17,
    expect.stringMatching(/file exists: .*\n\s*Name another file, or move the existing file away/),
  ]);

  const refused = await machine.json("import-clients", "--path", path);
  expect([refused.code, refused.document.import]).toEqual([
    17,
    expect.objectContaining({
      added: 0,
      refused: [{ where: "record 1", why: expect.stringContaining("--update") }],
    }),
  ]);
  const renamed = (await readFile(path, "utf8")).replace("kitchen", "cellar");
  await writeFile(path, renamed);
  const updated = await machine.run(["import-clients", path, "--update"]);
  expect([updated.code, updated.stdout]).toEqual([0, "Imported: 0 added, 1 updated\n"]);
  expect((await machine.json("show-client", "1")).document.client).toMatchObject({
    name: "cellar",
  });
});

test.each(["standard input", "a pipe"])(
  "an import waits for %s without the store open, and SIGINT ends the wait",
  async (source) => {
    const machine = await Machine.make();
    await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
    const pipe = machine.path("pipe");
    await promisify(execFile)("mkfifo", [pipe]);
    const [program, ...args] = machine.line(["import-clients", source === "a pipe" ? pipe : "-"]);
    const child = spawn(program, args, { env: machine.environment });
    onTestFinished(() => void child.kill("SIGKILL"));
    let stderr = "";
    child.stderr.on("data", (text) => {
      stderr += text;
    });
    const writer = source === "a pipe" ? createWriteStream(pipe) : child.stdin;
    onTestFinished(() => void writer.destroy());
    const backup = ["backup", "--service", "none"];
    await new Promise((resolve) => writer.write("access_key\nkey-1\n", resolve));
    expect(await machine.run(backup)).toMatchObject({ code: 0 });
    child.kill("SIGINT");
    const [code] = await once(child, "exit");
    expect([code, stderr]).toEqual([130, expect.stringContaining("interrupted by SIGINT")]);
    expect((await machine.json("list-clients")).document).toEqual({ clients: [] });
  },
);

test("SIGINT ends an export that waits for its reader", async () => {
  const machine = await Machine.make();
  await machine.init();
  const records = Array.from({ length: 2_000 }, (_, index) =>
    JSON.stringify({ api_key: `key-${index}`, name: "n".repeat(1_000) }),
  );
  await machine.run(["import-clients", "-", "--yes"], { input: records.join("\n") });
  const [program, ...args] = machine.line(["export-clients"]);
  const child = spawn(program, args, { env: machine.environment });
  onTestFinished(() => void child.kill("SIGKILL"));
  await once(child.stdout, "readable");
  child.kill("SIGINT");
  expect(await once(child, "exit")).toEqual([null, "SIGINT"]);
});

test("numbers in metadata keep their digits in JSON and JSON lines, and NaN is null", async () => {
  const machine = await Machine.make();
  await machine.init();
  const clients = awkwardClients();
  await writeFile(machine.path("clients.json"), clients.map(serializeClient).join("\n"));
  await machine.run(["import-clients", machine.path("clients.json"), "--yes"]);
  const digits = '{"f": 1.0, "10": -0.0, "2": [1e+16, 9007199254740993]';
  const key = ["--access-key", "k", "--metadata", `${digits}, "x": NaN, "y": [-Infinity]}`];
  const added = await machine.run(["add-client", ...key, "--json"]);
  const { metadata } = (parseJson(added.stdout) as { client: JsonObject }).client;
  expect(formatJson(metadata as JsonObject)).toBe(`${digits}, "x": null, "y": [null]}`);
  expect((await machine.run(["show-client", "10"])).stdout).toContain("9007199254740993");

  const all = ["--revoked", "--show-secrets"];
  const query = ["sql", "SELECT hex(metadata) AS m FROM clients ORDER BY client_id", "--csv"];
  const stored = (await machine.run(query)).stdout;
  const lines = (await machine.run(["list-clients", "--jsonl", ...all])).stdout;
  const document = parseJson((await machine.run(["list-clients", "--json", ...all])).stdout);
  const list = (document as { clients: JsonObject[] }).clients;
  expect(list.map((client) => formatJson(client))).toEqual(
    lines
      .trimEnd()
      .split("\n")
      .map((line) => formatJson(parseJson(line))),
  );
  for (const client of clients) {
    const listed = list.find(({ client_id }) => client_id === client.client_id);
    expect(serializeClient(listed as unknown as Client)).toBe(serializeClient(client));
  }
  const again = await Machine.make();
  await again.init();
  await again.run(["import-clients", "-", "--yes"], { input: lines });
  const copied = (await again.run(query)).stdout;
  expect(copied.split("\r\n").slice(0, 10)).toEqual(stored.split("\r\n").slice(0, 10));
});

test("a hub's CSV: tried dry, refused by line, confirmed, imported", async () => {
  const machine = await Machine.make();
  await machine.init();
  const path = machine.path("hivemind_clients.csv");
  const header = "client_id,name,is_admin,access_key,password,crypto_key";
  await writeFile(path, `${header}\n1,a, b,True,k1,p1,None\n4,c,False,k4,p,4,None`);
  const bad = await machine.run(["import-clients", path]);
  expect([bad.code, bad.stdout]).toEqual([
    17,
    expect.stringMatching(/Nothing imported: 1 row refused[\s\S]*line 3: .*ambiguous/),
  ]);
  await writeFile(path, `${header}\n1,a, b,True,k1,p1,None\n4,c,False,k4,p4,None`);
  const dry = await machine.run(["import-clients", path, "--dry-run"]);
  expect([dry.code, dry.stderr, dry.stdout]).toEqual([
    0,
    "",
    'Would import: 2 added (2 with default permissions), 2 missing ids filled with revoked rows\n2 new clients without permissions in the file, which get the permissions that add-client gives.\nHiveMind 4 admits anyone who presents the access key "revoked", which each revoked client has.\n',
  ]);
  const unasked = await machine.run(["import-clients", path]);
  expect([unasked.code, unasked.stderr]).toEqual([2, expect.stringContaining("--yes")]);
  expect((await machine.json("list-clients", "--revoked")).document).toEqual({ clients: [] });
  const { screen } = await onTerminal(machine, ["import-clients", path], [["[y/N]", "y\r"]]);
  expect(screen).toMatch(/reading {2}█+ 100 %[\s\S]*importing {2}█+ 100 %[\s\S]*Imported: 2 added/);
  expect((await machine.json("list-clients", "--revoked")).document.clients).toMatchObject([
    { client_id: 1, name: "a, b", is_admin: true },
    { client_id: 2 },
    { client_id: 3 },
    { client_id: 4 },
  ]);
});

test("what is no file of clients is refused in words, and nothing is left behind", async () => {
  const machine = await Machine.make();
  await machine.init();
  await writeFile(machine.path("binary"), Buffer.from([0xff, 0xfe, 0x00]));
  await writeFile(machine.path("empty"), "");
  await writeFile(machine.path("text"), "hello\n");
  await symlink("circle", machine.path("circle"));
  const cases: [string[], number, RegExp][] = [
    [["import-clients"], 2, /no file to import/],
    [["import-clients", machine.path("nowhere")], 10, /no such file/],
    [["import-clients", machine.folder], 10, /is a directory/],
    [["import-clients", machine.path("text", "below")], 10, /no such file/],
    [["import-clients", machine.path("circle")], 18, /symbolic link/],
    [["import-clients", machine.path("binary")], 17, /not text in UTF-8 or UTF-16/],
    [["import-clients", machine.path("empty")], 17, /empty/],
    [["import-clients", machine.path("text")], 17, /not a header[\s\S]*access_key/],
    [["export-clients", "--path", machine.path("no", "folder.csv")], 18, /cannot create/],
    [["export-clients", "--format", "xml"], 2, /csv, json/],
    [["export-clients", "a.csv", "--path", "b.csv"], 2, /two files are named/],
    [["export-clients", "--json", "--format", "csv"], 2, /standard output/],
  ];
  for (const [args, code, says] of cases) {
    const answer = await machine.run(args);
    expect([args, answer.code]).toEqual([args, code]);
    expect(answer.stderr + answer.stdout).toMatch(says);
  }
  const names = await readdir(machine.folder, { recursive: true });
  expect(names.filter((name) => name.includes("partial"))).toEqual([]);
});
