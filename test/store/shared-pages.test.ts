import { join } from "node:path";
import { expect, test } from "vitest";
import { Connection } from "../../src/store/connection.js";
import { readCopyIvs, readStoreIvs } from "../../src/store/shared-pages.js";
import { temporaryFolder } from "./temporary.js";

test("the pages of a log with more pages than a call has arguments are read", async () => {
  const path = join(await temporaryFolder(), "test.db");
  const connection = await Connection.open(path, { mode: "create" });
  await connection.exec("PRAGMA page_size = 1024");
  await connection.all("PRAGMA journal_mode = WAL");
  await connection.all("PRAGMA wal_autocheckpoint = 0");
  await connection.exec(`CREATE TABLE t (content);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 140000)
      INSERT INTO t SELECT randomblob(990) FROM n`);
  const logged = await readStoreIvs(path, 3);
  expect(logged.length).toBeGreaterThan(140_000 * 16);
  await connection.all("PRAGMA wal_checkpoint(TRUNCATE)");
  await connection.close();
  expect(logged.equals(await readCopyIvs(path, 3))).toBe(true);
});
