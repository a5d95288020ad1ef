import { spawn } from "node:child_process";
import { expect, onTestFinished, test } from "vitest";
import { findHubProcesses } from "../../src/hub/find-hubs.js";

test("hubs of another server.json that start and end meanwhile are not taken for its hub", async () => {
  const script = "while kill -0 $PPID; do bash -c : hivemind-core listen; done";
  const hubs = spawn("bash", ["-c", script], { env: { ...process.env, HOME: "/elsewhere" } });
  onTestFinished(() => void hubs.kill());
  for (let round = 0; round < 200; round += 1) {
    expect(await findHubProcesses("/here/.config/hivemind-core/server.json")).toEqual([]);
  }
});
