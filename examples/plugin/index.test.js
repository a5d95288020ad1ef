import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { conformance } from "hivemind-sqlcipher/testing";
import { FileDatabase } from "./index.js";

/** Chooses an unused path. Returns a function that opens the database there. */
async function openNew() {
  const file = join(await mkdtemp(join(tmpdir(), "example-")), "clients.json");
  return () => FileDatabase.open({ file }, { mode: "create" });
}

for (const { name, run } of conformance) test(name, () => run(openNew));
