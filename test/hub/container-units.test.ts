/** The unit that writes the copy of `server.json` for a container. */
import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import {
  type ContainerUnit,
  renderCompose,
  renderCopyUnit,
} from "../../src/hub/container-units.js";
import { copyUnitOf } from "../../src/service/copy-unit.js";

const unit: ContainerUnit = {
  ...{ kind: "user", run: ["/usr/bin/hivemind-sqlcipher", "run"], owner: undefined },
  ...{ serverJson: "/home/a/server.json", pathInside: "/home/hivemind/server.json" },
  ...{ credential: undefined, dockerContainer: "hivemind_listener" },
};

/** Calls the script of a unit with a Docker whose unit is in this state. */
function callScript(options: Partial<ContainerUnit>, error: string, state = "unknown"): string {
  const text = renderCopyUnit({ ...unit, ...options }, { directory: "copy" });
  const [, line = ""] = /^ExecStartPost=-(.*)$/m.exec(text) ?? [];
  const [, script = ""] = /^\/bin\/sh -c "(.*)" hivemind_listener$/.exec(line) ?? [];
  // As systemd reads it.
  const read = script.replaceAll(/\\(["\\])/g, "$1").replaceAll("$$", "$");
  // Docker responds from the second call on.
  const programs = `
    systemctl() { echo ${state}; }
    sleep() { slept=1; }
    docker() {
      case $1 in
        version) [ -n "$slept" ] ;;
        inspect) echo '${error}' ;;
        start) echo "$@" ;;
      esac
    }`;
  const args = ["-c", `${programs}\n${read.replace("exec ", "")}`, "hub"];
  return execFileSync("/bin/sh", args, { encoding: "utf8" });
}

const managers = [
  { kind: "user", isDockerRootless: false },
  { kind: "user", isDockerRootless: true },
  { kind: "system" },
] as const;

test.each(managers)("the unit starts a container that Docker could not start: %o", (options) => {
  expect(callScript(options, "bind source path does not exist", "active")).toBe("start hub\n");
  expect(callScript(options, "", "active")).toBe("");
});

test("a Docker of the same manager that has not started waits for the unit", () => {
  const inactive = managers.map((options) => callScript(options, "no such file", "inactive"));
  expect(inactive).toEqual(["start hub\n", "", ""]);
});

test("Podman has a unit of its own that starts containers", () => {
  expect(
    renderCopyUnit({ ...unit, dockerContainer: undefined }, { directory: "copy" }),
  ).not.toContain("ExecStartPost");
});

test("each store has a unit and a copy of its own", () => {
  const [one, other] = ["/srv/one/clients.db", "/srv/other/clients.db"].map(copyUnitOf);
  for (const name of ["name", "file", "directory", "copy"] as const) {
    expect(one?.[name]).not.toBe(other?.[name]);
  }
  const printed = renderCompose(unit, copyUnitOf("/srv/one/clients.db"));
  expect(printed).toContain(`/${one?.name}\n`);
  expect(printed).toContain(`RuntimeDirectory=${one?.directory}\n`);
  expect(printed).toContain(`%t/${one?.directory}/server.json --server-json`);
  expect(printed).toMatch(new RegExp(`source: .*/${one?.directory}/server.json`));
});
