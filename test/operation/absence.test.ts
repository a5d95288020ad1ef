import { chownSync, existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { endAbsence } from "../../src/operation/absence.js";
import { holdersOf } from "../../src/service/holders.js";

test.skipIf(process.geteuid?.() !== 0)(
  "a hub with commands of its own is started again by an ordinary user too, who cannot look into all processes",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "hivemind-absence-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const store = join(folder, "clients.db");
    const started = join(folder, "started");
    writeFileSync(store, "");
    chownSync(folder, 65534, 65534);
    process.seteuid?.(65534);
    try {
      expect(await holdersOf(store)).toEqual({ holders: [], complete: false });
      const stopped = {
        service: "command",
        unit: "hivemind-core",
        stop_command: "true",
        start_command: `touch '${started}'`,
      } as const;
      expect(await endAbsence({ ...stopped, dependents: [] }, store)).toBe(true);
    } finally {
      process.seteuid?.(0);
    }
    expect(existsSync(started)).toBe(true);
  },
);
