import { expect, test } from "vitest";
import { roomIn } from "../../src/files/room.js";
import { temporaryFolder } from "../store/temporary.js";

test("a folder's room is known in bytes; a disk that does not answer is one that fails, not a defect", async () => {
  const folder = await temporaryFolder();
  expect(await roomIn(folder)).toBeGreaterThan(0);
  await expect(roomIn(`${folder}/gone`)).rejects.toMatchObject({
    kind: "io",
    message: `cannot look into ${folder}/gone: no such file or folder`,
  });
});
