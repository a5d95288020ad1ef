import { spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ClientStore } from "../../src/store/client-store.js";
import { root } from "../built.js";
import { copyOfFixture, fixturePassphrases, temporaryFolder } from "./temporary.js";

/** Runs a program over the compiled store in a process of its own. */
function runStore(program: string, ...options: string[]) {
  const imports = `import { ClientStore } from "${root}dist/store/client-store.js";
import { findIntegrityErrors } from "${root}dist/store/integrity.js";
    import { identify } from "${root}dist/store/cipher.js";\n`;
  return spawnSync(
    process.execPath,
    [...options, "--input-type=module", "--eval", imports + program],
    { encoding: "utf8" },
  );
}

test("SQLCipher's own log lines never reach the terminal", async () => {
  const damaged = await copyOfFixture("sqlcipher4-schema2.db");
  const whole = await copyOfFixture("sqlcipher3-schema2.db");
  const bytes = await readFile(damaged);
  bytes.fill(0, bytes.length - 5_000);
  await writeFile(damaged, bytes);
  const { stdout, stderr, status } = runStore(`
    const kinds = [];
    const attempt = (work) => work.catch((error) => kinds.push(error.kind));
    await identify(${JSON.stringify(whole)});
    await attempt(ClientStore.open(${JSON.stringify(whole)}, "wrong"));
    const secret = ${JSON.stringify(fixturePassphrases["sqlcipher4-schema2.db"])};
    const store = await ClientStore.open(${JSON.stringify(damaged)}, secret);
    await attempt((async () => { for await (const client of store) client; })());
    await store.connection.all("PRAGMA cipher_integrity_check").catch(() => {});
    await findIntegrityErrors(store.connection);
    await store.close();
    console.log(kinds.join());`);
  expect({ stdout, stderr, status }).toEqual({
    stdout: "wrongPassphrase,corrupted\n",
    stderr: "",
    status: 0,
  });
});

test("all clients are gone through in memory that does not grow with the store", async () => {
  const path = join(await temporaryFolder(), "clients.db");
  const store = await ClientStore.create(path, "passphrase");
  // 40,000 clients of 4 KB each: 160 MB, to go through a heap of 32.
  await store.connection.run(`WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 40000)
    INSERT INTO clients (client_id, api_key, metadata) SELECT id, 'k' || id, '{"note": "' || hex(zeroblob(2000)) || '"}' FROM n`);
  await store.close();
  const program = `
    const store = await ClientStore.open(${JSON.stringify(path)}, "passphrase");
    const kept = [];
    let count = 0;
    for await (const client of store) { count += 1; if (keep) kept.push(client); }
    console.log(count);`;
  const streaming = runStore(`const keep = false;${program}`, "--max-old-space-size=32");
  expect(streaming).toMatchObject({ stdout: "40000\n", status: 0 });
  // That the bound is one: the same heap does not hold them all.
  expect(runStore(`const keep = true;${program}`, "--max-old-space-size=32").status).not.toBe(0);
});
