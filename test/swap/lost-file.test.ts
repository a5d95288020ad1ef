import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Journal } from "../../src/operation/journal.js";
import { SwapState } from "../../src/swap/state.js";
import { temporaryFolder } from "../store/temporary.js";

test("a new file that is lost after the commit has a way back to the old file only while that exists", async () => {
  const folder = await temporaryFolder();
  const storePath = join(folder, "clients.db");
  const aside = join(folder, "old.db");
  const data = {
    staged: join(folder, "new.db"),
    aside,
    keep_aside: false,
    source: { from: "keyring", to: "keyring" },
    committed: { inode: "1", size: "1", mtime_ns: "1", key_id: null },
  };
  const state = new SwapState(
    storePath,
    await Journal.begin(storePath, "rotate", "cleaning", data),
    data,
  );
  await writeFile(aside, "");
  await expect(state.assertNotLost()).rejects.toMatchObject({
    kind: "io",
    hint: expect.stringMatching(/move its -journal, -wal, -shm away.* to the former store: mv/),
  });
  await rm(aside);
  await expect(state.assertNotLost()).rejects.toMatchObject({ kind: "io", hint: "Put it back." });
});
