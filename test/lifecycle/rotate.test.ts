import { expect, test } from "vitest";
import { readBundle } from "../../src/bundle/bundle.js";
import type { RotateResult } from "../../src/lifecycle/rotate.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { fixturePassphrases } from "../store/temporary.js";
import { resultOf, World } from "./world.js";

test("a rotated store has a new key_id, a new bundle, the same rows, and its unit runs again", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  await world.startUnit();
  const before = await world.rows();
  const { rotated, bundle, service } = resultOf(await world.run<RotateResult>("rotate"));
  expect(await world.rows()).toEqual(before);
  expect(rotated.key_id).not.toBe(rotated.previous_key_id);
  expect(bundle?.key_id).toBe(rotated.key_id);
  expect(service).toMatchObject({ was_active: true, active: true });
  expect(await world.isActive).toBe(true);
  const slots = await world.slots();
  expect(Object.keys(slots)).toEqual(["current"]);
  expect(slots.current).not.toBe(fixturePassphrases["sqlcipher4-schema2.db"]);
  const { passphrase } = await readBundle(bundle?.path ?? "", {
    identity: world.recoveryKey.identity,
  });
  expect(passphrase).toBe(slots.current);
  await (await openEncrypted(world.path, passphrase, { mode: "readonly" })).connection.close();
  expect(await world.leftovers()).toEqual(["clients.db.lock"].filter(() => false));
});
