/** The unit that writes the copy of `server.json` for a container. */
import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { type ContainerUnit, renderCopyUnit } from "../../src/hub/container-units.js";

const unit: ContainerUnit = {
  ...{ kind: "user", run: ["/usr/bin/hivemind-sqlcipher", "run"], owner: undefined },
  ...{ serverJson: "/home/a/server.json", inside: "/home/hivemind/server.json" },
  ...{ credential: undefined, dockerContainer: "hivemind_listener" },
};

test("a user unit starts a container that Docker could not start, and no other", () => {
  const [, line = ""] = /^ExecStartPost=-(.*)$/m.exec(renderCopyUnit(unit)) ?? [];
  const [, script = ""] = /^\/bin\/sh -c "(.*)" hivemind_listener$/.exec(line) ?? [];
  // As systemd reads it.
  const read = script.replaceAll(/\\(["\\])/g, "$1").replaceAll("$$", "$");
  const callWith = (error: string) =>
    execFileSync(
      "/bin/sh",
      [
        "-c",
        `docker() { [ "$1" = start ] && echo "$@" || echo '${error}'; }; ${read.replace("exec ", "")}`,
        "hub",
      ],
      { encoding: "utf8" },
    );
  expect(callWith("bind source path does not exist")).toBe("start hub\n");
  expect(callWith("")).toBe("");
});

test("a system unit runs before Docker, and Podman has a unit of its own", () => {
  expect(renderCopyUnit({ ...unit, kind: "system" })).not.toContain("ExecStartPost");
  expect(renderCopyUnit({ ...unit, dockerContainer: undefined })).not.toContain("ExecStartPost");
});
