/** What commands print about the time in which they had stopped the hub. */
import { expect, onTestFinished, test } from "vitest";
import { holding, removeUnits, systemctl, uniqueName, writeUnits } from "../service/units.js";
import { Machine } from "./machine.js";

test("a command says how long the unit was stopped, and backup that satellites take longer", async () => {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  const unit = uniqueName();
  onTestFinished(() => removeUnits(`${unit}.service`));
  await writeUnits({ [`${unit}.service`]: holding(machine.store) });
  await systemctl("start", unit);
  const service = ["--service", "systemd-user", "--unit", unit];
  const stopped = new RegExp(`^  service     ${unit} was stopped for \\d+ ms$`, "m");
  const backup = await machine.run(["backup", ...service]);
  expect(backup.stdout).toMatch(stopped);
  expect(backup.stdout).toMatch(/^ +satellites reconnect some seconds later; with --online they/m);
  const online = await machine.run(["backup", ...service, "--online"]);
  expect([online.code, online.stdout]).toEqual([
    0,
    expect.not.stringMatching(/stopped|satellites/),
  ]);
  const rotated = await machine.run(["rotate", ...service, "--hub", "none"]);
  expect(rotated.stdout).toMatch(stopped);
});
