import { expect, test } from "vitest";
import { assertFreeSpace } from "../../src/fs/copy.js";
import { temporaryFolder } from "../store/temporary.js";

test("a folder without room is refused before it is filled; a disk that does not answer is one that fails, not a defect", async () => {
  const folder = await temporaryFolder();
  await assertFreeSpace(folder, 1, "a byte", "make room");
  await expect(assertFreeSpace(folder, 2 ** 60, "an exbibyte", "make room")).rejects.toMatchObject({
    kind: "io",
    message: expect.stringMatching(
      /^no space left on device: an exbibyte needs \d+ bytes in .*, and \d+ are free$/,
    ),
    hint: "make room",
  });
  await expect(assertFreeSpace(`${folder}/gone`, 1, "a byte", "make room")).rejects.toMatchObject({
    kind: "io",
    message: `cannot determine the free space of ${folder}/gone: no such file or directory`,
  });
});
