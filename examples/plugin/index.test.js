import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { conformance } from "hivemind-sqlcipher/testing";
import { FileDatabase } from "./index.js";

/**
 * Creates an unused path; the function that it returns opens the database there, again and again.
 */
async function place() {
  const file = join(await mkdtemp(join(tmpdir(), "example-")), "clients.json");
  return () => FileDatabase.open({ file }, { mode: "create" });
}

for (const { name, run } of conformance) test(name, () => run(place));
