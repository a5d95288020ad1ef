/** Every command prints the document that docs/reference/json-output.md describes. */
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { documents } from "../../src/cli/docs/documents.js";
import { describeCommand, listCommands } from "../../src/cli/docs/grammar.js";
import { jsonOutputReference, jsonOutputSchema } from "../../src/cli/docs/json-reference.js";
import { buildProgram } from "../../src/cli/program.js";
import { toJson } from "../../src/cli/ui/json.js";
import { Output } from "../../src/cli/ui/output.js";
import { deleteEntry } from "../../src/keys/keyring.js";
import { scenarios } from "../leaks/scenarios.js";
import { LeakWorld, passphrase } from "../leaks/world.js";
import { assertDocument, matchingDocuments } from "./documents.js";

test("every command that takes --json has a document", async () => {
  const output = new Output({ json: false, quiet: false, verbose: false, color: false });
  const commands = listCommands(describeCommand(await buildProgram(output))).filter(
    (entry) =>
      entry.commands.length === 0 && entry.options.some(({ names }) => names.includes("--json")),
  );
  const names = commands.map((entry) => entry.names.join(" "));
  expect(names.length).toBeGreaterThan(40);
  expect(Object.keys(documents).toSorted()).toEqual([...names, "settle"].toSorted());
});

const alone = ["--service", "none", "--hub", "none"];

/** Runs with other documents than those of the scenarios, before the store is replaced. */
const variants: ((world: LeakWorld) => string[])[] = [
  () => ["setup", "--unit", "no-such-hub", "--dry-run"],
  () => ["setup", "--undo"],
  () => ["backup"],
  (world) => ["backups", dirname(world.newest("backups")), "--all"],
  (world) => ["verify", "--all", dirname(world.newest("backups"))],
  (world) => ["status", "--all", dirname(world.newest("backups"))],
  () => ["run", "--print-unit", "user"],
  () => ["export-clients"],
  () => ["export-clients", "--show-secrets"],
  () => ["list-clients", "--show-secrets", "--revoked"],
  () => ["sql", "--write", "UPDATE clients SET name = 'hall' WHERE client_id = 2", "--yes"],
  (world) => ["bundle", "print", world.newest("bundles")],
  (world) => ["bundle", "show", world.newest("bundles")],
  (world) => [
    ...["bundle", "show", world.newest("bundles")],
    ...["-i", world.recoveryKeyFile, "--show-passphrase"],
  ],
  (world) => [
    ...["restore", world.newest("backups"), "--into", "hivemind-json-db-plugin"],
    ...["--into-setting", "name=copy", "--discard-replaced", "--yes"],
  ],
];

/** Documents of setup.test and schedule.test, which need an installed hub or a user's home. */
const elsewhere = [
  ...["setup: After a change", "setup: If nothing is left to do"],
  ...["schedule install", "schedule remove"],
];

test("every command prints its document, and an error the document of errors", async () => {
  const world = await LeakWorld.make();
  const printed = new Set<string>();
  const run = async (args: string[], code = 0, { machine } = world) => {
    const ran = await machine.run(args);
    expect(ran.code, `${args.join(" ")}: ${ran.stdout}${ran.stderr}`).toBe(code);
    for (const name of matchingDocuments(args, ran.stdout)) printed.add(name);
  };
  for (const [name, scenario] of Object.entries(scenarios)) {
    if (name === "decrypt") {
      for (const argsOf of variants) {
        const args = [...argsOf(world), "--json"];
        await run(args, args.includes("no-such-hub") ? 10 : 0);
      }
    }
    await scenario.before?.(world);
    const args = scenario.args?.(world) ?? [];
    const dashes = args.indexOf("--");
    const [own, hubs] = dashes === -1 ? [args, []] : [args.slice(0, dashes), args.slice(dashes)];
    await run([...name.split(" "), ...own, "--json", ...hubs], scenario.code);
    await scenario.after?.(world);
  }

  const former = await LeakWorld.make();
  await deleteEntry(former.machine.store, "current");
  await former.writeServerJson({ password: passphrase });
  await run(["init", "--adopt", ...alone, "--json"], 0, former);

  const expected = Object.entries(documents).flatMap(([name, forms]) =>
    forms.map(({ when }) => (when === undefined ? name : `${name}: ${when}`)),
  );
  expect([...printed, ...elsewhere].toSorted()).toEqual(["error", ...expected].toSorted());
}, 600_000);

test("a document with another key is refused, and one that lacks a key", () => {
  const removed = { removed: { file: "a.prom" } };
  const args = ["metrics", "remove", "--json"];
  assertDocument(args, JSON.stringify(removed));
  for (const wrong of [
    { ...removed, more: 1 },
    { removed: { path: "a.prom" } },
    { removed: {} },
    { error: { code: 1, message: "no hint", kind: "failed" } },
  ]) {
    expect(() => assertDocument(args, JSON.stringify(wrong))).toThrow("undocumented");
  }
});

test("every row of the page has one type and a description, and the schema accepts later keys", () => {
  const rows = jsonOutputReference().match(/^\| `.*$/gm) ?? [];
  expect(rows.length).toBeGreaterThan(400);
  for (const row of rows) {
    const [, type, description] = row.split(/ \|(?: |$)/);
    expect(type, row).not.toMatch(/,\S/);
    expect(description, row).toMatch(/\S/);
  }
  expect(jsonOutputSchema()).not.toContain('"additionalProperties": false');
});

test("keys are converted at every depth, and nothing else", () => {
  const converted = toJson({
    keyId: "keyId",
    sha256: "x",
    already_snake: null,
    lists: [{ createdAt: "a/fileName" }, [1, "noChange"]],
    runs: new Map([["restoreInto", { endedAt: "b" }]]),
  });
  expect(converted).toEqual({
    key_id: "keyId",
    sha256: "x",
    already_snake: null,
    lists: [{ created_at: "a/fileName" }, [1, "noChange"]],
    runs: { restoreInto: { ended_at: "b" } },
  });
});
