import { expect, test } from "vitest";
import { findUser } from "../../src/process/users.js";

test("a user is found by name and by number", async () => {
  const root = { uid: 0, gid: 0, home: expect.stringMatching(/^\//) };
  expect(await findUser("root")).toEqual(root);
  expect(await findUser("0")).toEqual(root);
});

test.each(["no-such-user", "4294967294", "", "-V", "-?", "-i"])("%j is no user", async (user) => {
  expect(await findUser(user)).toBeUndefined();
});
