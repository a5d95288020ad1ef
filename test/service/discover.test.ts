/**
 * The hub's unit is found by the store: real units in the session's user manager, with any name.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findHolders } from "../../src/process/holders.js";
import { hintForHolders, type ServiceChoice, selectService } from "../../src/service/select.js";
import {
  holding,
  property,
  removeUnits,
  systemctl,
  temporaryFolder,
  uniqueName,
  until,
  writeUnits,
} from "./units.js";

let folder: string;
let store: string;
let unit: string;
let written: string[];
let children: ChildProcess[];

beforeEach(() => {
  folder = temporaryFolder();
  mkdirSync(join(folder, "data", "hivemind-core"), { recursive: true });
  store = join(folder, "data", "hivemind-core", "clients.db");
  writeFileSync(store, "");
  unit = uniqueName();
  written = [];
  children = [];
});

afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  await removeUnits(...written);
  rmSync(folder, { recursive: true });
});

async function write(units: Record<string, string>): Promise<void> {
  written.push(...Object.keys(units));
  await writeUnits(units);
}

/** Writes a program that has the store open and is ready at once, and returns its path. */
function program(name: string, lines: string): string {
  const path = join(folder, name);
  writeFileSync(path, `#!/bin/sh\n${lines}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** A stand-in with the command line of a hub. */
const hub = () => program("hivemind-core", `exec 3<"${store}"; while :; do sleep 1; done`);

/** A unit that is not told apart from a hub's: in this folder's data directory. */
const service = (execStart: string, more = "") =>
  `[Service]\nEnvironment=XDG_DATA_HOME=${folder}/data\nExecStart=${execStart}\n${more}[Install]\nWantedBy=default.target\n`;

const select = (choice: Partial<ServiceChoice> = {}) =>
  selectService({ service: "auto", storePath: store, ...choice });

const isOpen = async () => (await findHolders(store)).holders.length > 0;

async function start(name = unit): Promise<void> {
  await systemctl("start", name);
  await until(isOpen);
}

describe("a hub that runs", () => {
  test("is found by the process that has the store open, whatever the unit's name", async () => {
    await write({ [`${unit}.service`]: holding(store) });
    await start();
    expect(await select()).toMatchObject({ kind: "systemd-user", name: unit, isDiscovered: true });
    expect(await select({ service: "systemd-user" })).toMatchObject({ name: unit });
  });

  test("is found below a wrapper", async () => {
    await write({ [`${unit}.service`]: `[Service]\nExecStart=/bin/sh -c '${hub()} listen; :'\n` });
    await start();
    expect(await select()).toMatchObject({ kind: "systemd-user", name: unit });
  });

  test("is found as an instance of a template, by its own name", async () => {
    await write({ [`${unit}@.service`]: holding(store) });
    await start(`${unit}@main`);
    written.push(`${unit}@main.service`);
    expect(await select()).toMatchObject({ kind: "systemd-user", name: `${unit}@main` });
  });

  test("is not a program that another unit runs: that unit is named instead", async () => {
    await write({
      [`${unit}.service`]: `[Service]\nExecStart=/bin/sh -c 'sh -c "exec 3<${store}; sleep 1000"; :'\n`,
    });
    await start();
    await expect(select()).rejects.toMatchObject({
      kind: "inUse",
      hint: expect.stringContaining(`--service systemd-user --unit ${unit}`),
    });
  });

  test("is not a unit that runs a command of this program, unless it is run", async () => {
    const own = program("hivemind-sqlcipher", `exec 3<"${store}"; while :; do sleep 1; done`);
    await write({ [`${unit}.service`]: `[Service]\nExecStart=${own} metrics\n` });
    await start();
    const find = () => select({ service: "systemd-user" });
    expect(await find()).toMatchObject({ name: "hivemind-core" });
    await write({ [`${unit}.service`]: `[Service]\nExecStart=${own} run -- /srv/hub\n` });
    await systemctl("restart", unit);
    await until(isOpen);
    expect(await find()).toMatchObject({ name: unit });
  });

  test("is refused if two units have the store open, and both are named", async () => {
    const other = `${unit}-b`;
    await write({ [`${unit}.service`]: holding(store), [`${other}.service`]: holding(store) });
    await start();
    await start(other);
    await expect(select()).rejects.toMatchObject({
      kind: "refused",
      hint: expect.stringMatching(
        new RegExp(`--unit ${unit}(-b)?, or --service systemd-user --unit ${unit}`),
      ),
    });
  });
});

describe("a hub that is stopped", () => {
  test.each([
    ["by itself", () => `${hub()} listen`],
    ["through a shell", () => `/bin/sh -c 'exec ${hub()} listen'`],
    ["as a module of Python", () => "/usr/bin/python3 -m hivemind_core listen"],
    ["through run", () => `/usr/bin/node /opt/main.js run --db x -- ${hub()} listen`],
    ["through a script", () => program("start", `exec ${hub()} listen`)],
  ])("is found by a unit that starts it %s", async (_, command) => {
    await write({ [`${unit}.service`]: service(command()) });
    expect(await select()).toMatchObject({ kind: "systemd-user", name: unit, isDiscovered: true });
  });

  test("is not a unit that runs another command of the hub, or keeps its data elsewhere", async () => {
    await write({
      [`${unit}.service`]: service(`${hub()} list-clients`),
      [`${unit}-b.service`]: service(
        `${hub()} listen`,
        `Environment=XDG_DATA_HOME=${folder}/elsewhere\n`,
      ),
    });
    expect(await select()).toMatchObject({ kind: "none" });
    expect(await (await select()).check(store)).toEqual([]);
  });

  test("is found once by a unit with an alias", async () => {
    await write({ [`${unit}.service`]: service(`${hub()} listen`) });
    const units = join(process.env.HOME ?? "", ".config/systemd/user");
    symlinkSync(join(units, `${unit}.service`), join(units, `${unit}-alias.service`));
    written.push(`${unit}-alias.service`);
    await systemctl("daemon-reload");
    expect(await select()).toMatchObject({ kind: "systemd-user" });
  });

  test("is the enabled unit of several; without one, all are named", async () => {
    const other = `${unit}-b`;
    const text = service(`${hub()} listen`);
    await write({ [`${unit}.service`]: text, [`${other}.service`]: text });
    await expect(select()).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining(`${other}.service in the user manager`),
      hint: expect.stringContaining(`--service systemd-user --unit ${other}`),
    });
    await systemctl("enable", other);
    try {
      expect(await select()).toMatchObject({ name: other });
    } finally {
      await systemctl("disable", other);
    }
  });

  test("is not the unit that runs with another store", async () => {
    const otherStore = join(folder, "data", "second", "clients.db");
    mkdirSync(join(folder, "data", "second"));
    writeFileSync(otherStore, "");
    const other = program("other", `exec 3<"${otherStore}"; sleep 1000 # hivemind-core listen`);
    await write({
      [`${unit}.service`]: service(`${hub()} listen`),
      [`${unit}-b.service`]: service(`/bin/sh -c '${other}; : hivemind-core listen'`),
    });
    await systemctl("start", `${unit}-b`);
    await until(async () => (await findHolders(otherStore)).holders.length > 0);
    expect(await select()).toMatchObject({ name: unit });
  });
});

describe("a hub in a container", () => {
  const id = "0123456789abcdef".repeat(4);

  /** A process with the store open in a control group as docker makes it. */
  async function contained(): Promise<number> {
    const child = spawn("sh", ["-c", 'exec 3<"$0"; echo; exec sleep infinity', store]);
    children.push(child);
    await once(child.stdout, "data");
    const own = readFileSync("/proc/self/cgroup", "utf8");
    for (const [root, line] of [
      ["/sys/fs/cgroup/systemd", /^\d+:name=systemd:(.*)$/m],
      [
        existsSync("/sys/fs/cgroup/unified") ? "/sys/fs/cgroup/unified" : "/sys/fs/cgroup",
        /^0::(.*)$/m,
      ],
    ] as const) {
      const path = line.exec(own)?.[1];
      if (path === undefined) continue;
      const group = join(root, path.replace(/\/[^/]*\.(service|scope)$/, ""), "docker", id);
      mkdirSync(group, { recursive: true });
      writeFileSync(join(group, "cgroup.procs"), `${child.pid}`);
    }
    return child.pid ?? 0;
  }

  test("is refused with the reason if its engine does not respond", async () => {
    const pid = await contained();
    await expect(select()).rejects.toMatchObject({
      kind: "inUse",
      message: expect.stringContaining(`${pid} (sleep)`),
      hint: expect.stringMatching(/runs in the docker container \w{12}, but (?:docker|this user) /),
    });
  });

  test("belongs to a oneshot unit that starts containers, if that unit is named", async () => {
    const pid = await contained();
    await write({
      [`${unit}.service`]: `[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=kill ${pid}\n`,
    });
    await systemctl("start", unit);
    const found = await select({ unit });
    expect(await found.check(store)).toEqual([
      expect.stringContaining(`${unit} starts containers: it must also stop ${pid} (`),
    ]);
    expect(await found.owns(pid)).toBe(true);
    expect(await found.owns(process.pid)).toBe(false);
    expect((await found.state()).active).toBe(true);
    await found.stop();
    await until(async () => !(await isOpen()));
    await found.start([]);
    expect(await property(unit, "ActiveState")).toBe("active");
  });
});

test("a template is refused, with its instances", async () => {
  await write({ [`${unit}@.service`]: service("/bin/sleep infinity") });
  const find = () => select({ service: "systemd-user", unit: `${unit}@` });
  await expect(find()).rejects.toMatchObject({
    kind: "usage",
    message: `${unit}@ is a template unit, and only its instances run`,
    hint: `Name an instance: --unit ${unit}@INSTANCE.`,
  });
  await systemctl("start", `${unit}@main`);
  written.push(`${unit}@main.service`);
  for (const name of [`${unit}@`, `${unit}@.service`]) {
    await expect(select({ unit: name })).rejects.toMatchObject({
      kind: "usage",
      hint: `Name an instance: --unit ${unit}@main.`,
    });
  }
});

test("the hint for a holder in a login session says what to do", async () => {
  const { pid } = process;
  expect(await hintForHolders([{ pid, command: "node" }])).toMatch(/^Stop that program first/);
});
