/** A real timer in the session's user manager, and the backups that it makes. */
import { chmod, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { checkSchedule } from "../../src/diagnostics/schedule.js";
import { parseSource } from "../../src/keys/source.js";
import { Journal } from "../../src/operation/journal.js";
import { recordRun } from "../../src/operation/run-record.js";
import { findHolders } from "../../src/process/holders.js";
import { findUnitPrograms } from "../../src/service/programs.js";
import {
  hasExpired,
  readSchedule,
  type Schedule as StoreSchedule,
} from "../../src/service/schedule-state.js";
import { scheduledService } from "../../src/service/schedule-units.js";
import { root } from "../built.js";
import {
  exec,
  property,
  removeUnits,
  systemctl,
  uniqueName,
  until,
  writeUnits,
} from "../service/units.js";
import { Machine } from "./machine.js";
import { onTerminal } from "./terminal.js";

interface Schedule {
  unit: string;
  service: string;
  on_calendar: string;
  enabled: boolean;
  active: boolean;
  next_run: string | null;
  last_run: { at: string; result: string | null; exit_code: number | null } | null;
  lingers: boolean;
  drop_ins: string[];
}

const unitFolder = join(process.env.HOME ?? "", ".config/systemd/user");

/** As somebody has it who sets no XDG_CONFIG_HOME: units go where the manager reads them. */
const usual = { env: { XDG_CONFIG_HOME: "" } };

async function withSchedule(): Promise<{ machine: Machine; here: string[] }> {
  const machine = await Machine.make();
  const here = ["--db", machine.store, "--config", machine.path("settings.json")];
  await machine.init(
    ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles"), ...here],
  );
  const settings = JSON.parse(await readFile(machine.path("settings.json"), "utf8"));
  settings.backup.service = "none";
  await writeFile(machine.path("settings.json"), JSON.stringify(settings));
  onTestFinished(async () => {
    await machine.run(["schedule", "remove", ...here], usual);
  });
  return { machine, here };
}

async function ask<Document>(machine: Machine, ...args: string[]): Promise<Document> {
  const { code, stdout, stderr } = await machine.run([...args, "--json"], usual);
  if (code !== 0) throw new Error(stdout + stderr);
  return JSON.parse(stdout);
}

test("a schedule is installed, makes backups, is seen in status, and is removed but for drop-ins", async () => {
  const { machine, here } = await withSchedule();
  const installed = await machine.run(["schedule", "install", ...here], usual);
  expect(installed).toMatchObject({ code: 0 });
  expect(installed.stderr).toMatch(/enable-linger/);
  const { schedule } = await ask<{ schedule: Schedule }>(machine, "schedule", "status", ...here);
  expect(schedule).toMatchObject({
    on_calendar: "*-*-* 00:00:00",
    enabled: true,
    active: true,
    last_run: null,
    lingers: false,
    drop_ins: [],
  });
  expect(Date.parse(schedule.next_run ?? "")).toBeGreaterThan(Date.now());
  const { unit, service } = schedule;
  expect(await readFile(join(unitFolder, unit), "utf8")).toMatch(
    /^OnCalendar=daily\nRandomizedDelaySec=15min\n.*\nPersistent=true$/m,
  );
  expect((await readFile(join(unitFolder, service), "utf8")).match(/^ExecStart=.*/m)?.[0]).toMatch(
    new RegExp(`^ExecStart=\\S+ \\S+/cli/main\\.js backup --db ${machine.store} --config \\S+$`),
  );

  // As its owner would change it: the next run is now.
  const dropIn = join(unitFolder, `${unit}.d`);
  await mkdir(dropIn, { recursive: true });
  await writeFile(
    join(dropIn, "now.conf"),
    "[Timer]\nOnCalendar=\nOnActiveSec=1ms\nRandomizedDelaySec=0\nAccuracySec=1ms\n",
  );
  expect((await machine.run(["schedule", "install", ...here], usual)).code).toBe(0);
  const settled = async () => {
    const { last_run } = (await ask<{ schedule: Schedule }>(machine, "schedule", "status", ...here))
      .schedule;
    return last_run !== null && last_run.result !== "running";
  };
  await until(settled);
  await systemctl("stop", unit);
  const made = (await readdir(machine.path("backups"))).filter((name) => name.endsWith(".db"));
  expect(made.length).toBeGreaterThan(0);
  const status = await ask<{ schedule: Schedule; last_backup: { path: string } }>(
    machine,
    "status",
    ...here,
  );
  expect(status.schedule).toMatchObject({ active: false, drop_ins: [join(dropIn, "now.conf")] });
  expect(status.schedule.last_run).toMatchObject({ result: "success", exit_code: 0 });
  expect(made).toContain(status.last_backup.path.slice(machine.path("backups").length + 1));

  // A run that fails is seen too.
  await writeFile(machine.path("settings.json"), "{");
  await expect(systemctl("start", service)).rejects.toThrow();
  const failed = await machine.run(["schedule", "status", "--db", machine.store], usual);
  expect(failed.stdout).toMatch(/^last run .* failed with exit code 2$/m);

  const args = ["schedule", "remove", "--db", machine.store, "--json"];
  const removed = await machine.run(args, usual);
  expect(removed).toMatchObject({ code: 0, stderr: "" });
  expect(removed.stdout).toContain(dropIn);
  expect(await readdir(unitFolder)).not.toEqual(expect.arrayContaining([unit]));
  expect(await readdir(unitFolder)).not.toEqual(expect.arrayContaining([service]));
  expect(await readdir(dropIn)).toEqual(["now.conf"]);
  expect(await systemctl("list-units", "--all", "--plain", "--no-legend", unit, service)).toBe("");
  const again = await machine.run(["schedule", "remove", "--db", machine.store], usual);
  expect(again.code).toBe(10);
});

test("what cannot be scheduled is refused before anything is written", async () => {
  const { machine, here } = await withSchedule();
  const ownUnits = async () =>
    (await readdir(unitFolder)).filter((name) => name.startsWith("hivemind-sqlcipher-"));
  const before = await ownUnits();
  const install = ["schedule", "install", ...here];
  const spelled = await machine.run([...install, "--on-calendar", "every now and then"], usual);
  expect(spelled.code).toBe(2);
  expect(spelled.stderr).toMatch(/calendar[\s\S]*systemd\.time/);
  expect((await machine.run([...install, "--random-delay", "a bit"], usual)).code).toBe(2);
  // Units there would never be found by the manager.
  const elsewhere = await machine.run(install);
  expect(elsewhere.code).toBe(17);
  expect(elsewhere.stderr).toMatch(/XDG_CONFIG_HOME/);
  await writeFile(machine.path("settings.json"), "{}");
  const nowhere = await machine.run(install, {
    env: { ...usual.env, HIVEMIND_SQLCIPHER_BACKUP_TO: machine.path("backups") },
  });
  expect(nowhere.code).toBe(2);
  expect(nowhere.stderr).toMatch(/backup\.to/);
  expect(await ownUnits()).toEqual(before);
});

test("installed again, backups keep their times, and still leave the hub running", async () => {
  const { machine, here } = await withSchedule();
  const install = ["schedule", "install", ...here];
  const times = ["--on-calendar", "Mon *-*-* 03:30", "--random-delay", "1h"];
  const { schedule } = await ask<{ schedule: Schedule }>(machine, ...install, ...times);
  const [timer, service] = [join(unitFolder, schedule.unit), join(unitFolder, schedule.service)];
  // As `setup --online-backups` installs it.
  const text = await readFile(service, "utf8");
  await writeFile(service, text.replace(/ backup /, " backup --online "));
  await ask(machine, ...install, "--drill", "monthly");
  expect(await readFile(timer, "utf8")).toMatch(
    /^OnCalendar=Mon \*-\*-\* 03:30\nRandomizedDelaySec=1h$/m,
  );
  expect(await readFile(service, "utf8")).toMatch(/^ExecStart=.* backup --online /m);
});

test("backups stop the hub or not, as the option or the answer on a terminal says", async () => {
  const { machine, here } = await withSchedule();
  const settingsFile = machine.path("settings.json");
  const settings = JSON.parse(await readFile(settingsFile, "utf8"));
  const { service: _none, ...backup } = settings.backup;
  const commands = { stop_command: "true", start_command: "true" };
  await writeFile(
    settingsFile,
    JSON.stringify({ ...settings, backup: { ...backup, ...commands } }),
  );
  const install = ["schedule", "install", ...here];
  const note = "satellites reconnect after about seven; with --online-backups, backups do not";
  const first = await machine.run([...install, "--json"], usual);
  expect(first.stderr).toContain(note);
  const { service } = (JSON.parse(first.stdout) as { schedule: Schedule }).schedule;
  const command = () => readFile(join(unitFolder, service), "utf8");
  expect(await command()).toMatch(/ backup --db /);
  // An installed timer is not asked about.
  const again = await onTerminal(machine, install, [], usual.env);
  expect(again.screen).toContain(note);

  await machine.run(["schedule", "remove", ...here], usual);
  const question = "after about seven)? [y/N]";
  const asked = await onTerminal(machine, install, [[question, "y\r"]], usual.env);
  expect(asked.screen).not.toContain(note);
  expect(await command()).toMatch(/ backup --online /);

  await machine.run(["schedule", "remove", ...here], usual);
  const online = await machine.run([...install, "--online-backups"], usual);
  expect(online.stderr).not.toContain("satellites");
  expect(await command()).toMatch(/ backup --online /);
});

test("a service that runs at boot recovers, if an operation was interrupted", async () => {
  const { machine, here } = await withSchedule();
  const { schedule } = await ask<{ schedule: Schedule }>(machine, "schedule", "install", ...here);
  const unit = schedule.service.replace("-backup-", "-recovery-");
  expect(await systemctl("is-enabled", unit)).toBe("enabled");
  await systemctl("start", unit);
  expect(await property(unit, "ConditionResult")).toBe("no");
  const staged = { copy: machine.path("backups", "c"), manifest: machine.path("backups", "m") };
  const bundle = { folder: machine.path("bundles"), key_id: "0123456789abcdef" };
  await Journal.begin(machine.store, "backup", "backup.beginning", { staged, bundle });
  await systemctl("start", unit);
  expect(await Journal.read(machine.store)).toBeUndefined();
  await ask(machine, "schedule", "remove", ...here);
  expect(await property(unit, "LoadState")).toBe("not-found");
});

test("a file of somebody else's is neither replaced nor removed", async () => {
  const { machine, here } = await withSchedule();
  const { schedule } = await ask<{ schedule: Schedule }>(machine, "schedule", "install", ...here);
  const path = join(unitFolder, schedule.service);
  const own = await readFile(path, "utf8");
  await writeFile(path, "[Service]\nExecStart=true\n");
  await chmod(path, 0o644);
  for (const verb of ["install", "remove"]) {
    const refused = await machine.run(["schedule", verb, ...here], usual);
    expect(refused.code).toBe(17);
    expect(refused.stderr).toContain(schedule.service);
    expect(await readFile(path, "utf8")).toBe("[Service]\nExecStart=true\n");
  }
  await writeFile(path, own);
});

test("after a reboot the timer runs by itself, and makes up for a time that passed", async () => {
  const machine = await Machine.make();
  const command = `${process.execPath} ${root}dist/cli/main.js`;
  const inSession = (script: string) =>
    exec(`${root}scripts/private-session`, [machine.path("home"), "/bin/sh", "-ec", script]);
  // With a file, because the timer may run before the session's keyring is unlocked.
  await inSession(`
    umask 077
    echo "correct horse battery staple" >$HOME/passphrase
    ${command} init --passphrase-source file:$HOME/passphrase --recovery-key-file $HOME/key.txt \\
      --to $HOME/backups --bundle-to $HOME/bundles
    sed -i 's/"backup": {/"backup": {"service": "none",/' $HOME/.config/hivemind-sqlcipher/config.json
    ${command} schedule install --random-delay 0`);
  // It ran last two days ago.
  await exec("sh", [
    "-c",
    `touch -d '2 days ago' ${machine.path("home")}/.local/share/systemd/timers/*`,
  ]);
  const { stdout } = await inSession(`
    until ls $HOME/backups/*.db >/dev/null 2>&1; do sleep 0.1; done
    ${command} status --json`);
  const status = JSON.parse(stdout) as { schedule: Schedule; last_backup: { path: string } };
  expect(status.last_backup.path).toContain(machine.path("home", "backups"));
  expect(status.schedule).toMatchObject({
    enabled: true,
    active: true,
    last_run: { at: expect.any(String) },
  });
});

test("after a reboot the hub's unit comes up by itself, with its passphrase out of the keyring", async () => {
  const machine = await Machine.make();
  const command = `${process.execPath} ${root}dist/cli/main.js`;
  const inSession = (script: string) =>
    exec(`${root}scripts/private-session`, [machine.path("home"), "/bin/sh", "-ec", script]);
  await inSession(`
    ${command} init --recovery-key-file $HOME/key.txt
    mkdir -p $HOME/.config/hivemind-core
    echo '{"database": {"module": "hivemind-sqlite-db-plugin", "hivemind-sqlite-db-plugin": {}}}' >$HOME/.config/hivemind-core/server.json
    ${command} run --print-unit user -- /bin/sh -c 'grep -c password "$1" >"$2"; exec sleep infinity' hub \\
      $HOME/.config/hivemind-core/server.json $HOME/hub-is-up >$HOME/.config/systemd/user/hivemind-core.service
    systemctl --user enable hivemind-core`);
  // Nobody starts it here. It may come before the keyring is unlocked, and tries again then.
  await inSession(
    "until [ -s $HOME/hub-is-up ]; do sleep 0.1; done; systemctl --user is-active hivemind-core",
  );
  const seen = await readFile(machine.path("home", "hub-is-up"), "utf8");
  expect(seen.trim()).toBe("1");
  const settings = machine.path("home", ".config", "hivemind-core", "server.json");
  expect(await readFile(settings, "utf8")).not.toContain("password");
});

test.each(["2020-01-01", "*-02-30"])(
  "%s is refused, because its timer would never elapse",
  async (time) => {
    const { machine, here } = await withSchedule();
    const refused = await machine.run(
      ["schedule", "install", ...here, "--on-calendar", time],
      usual,
    );
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain(`no time from now on matches ${time}: the timer would never`);
    expect(refused.stderr).toContain("--on-calendar daily");
    const { schedule } = await ask<{ schedule: null }>(machine, "schedule", "status", ...here);
    expect(schedule).toBeNull();
  },
);

test("a time without a zone is local", async () => {
  const { machine, here } = await withSchedule();
  const now = Date.now();
  const install = (zone: string, hours: number) => {
    const time = new Date(now + hours * 3_600_000).toISOString().slice(0, 19).replace("T", " ");
    const env = { ...usual.env, TZ: zone };
    return machine.run(["schedule", "install", ...here, "--on-calendar", time], { env });
  };
  // Twelve hours ahead of UTC, and twelve behind.
  expect((await install("Etc/GMT-12", 6)).stderr).toContain("no time from now on matches");
  expect((await install("Etc/GMT+12", -6)).stderr).not.toContain("no time from now on matches");
});

test("a timer whose times have passed is recognised, and while its job runs, the next time is known", async () => {
  const { machine, here } = await withSchedule();
  const { schedule } = await ask<{ schedule: Schedule }>(machine, "schedule", "install", ...here);
  // Before the drop-in exists: another test may reload the manager at any time.
  expect(hasExpired(await scheduleOf(machine.store))).toBe(false);
  const dropIn = join(unitFolder, `${schedule.unit}.d`);
  await mkdir(dropIn, { recursive: true });
  onTestFinished(() => rm(dropIn, { recursive: true }));
  const change = join(dropIn, "change.conf");
  await writeFile(change, "[Timer]\nOnCalendar=\nOnCalendar=2020-01-01\n");
  await systemctl("daemon-reload");
  await systemctl("restart", schedule.unit);
  expect(hasExpired(await scheduleOf(machine.store))).toBe(true);

  await writeFile(change, "[Timer]\nOnCalendar=\nOnActiveSec=5h\nRandomizedDelaySec=0\n");
  await systemctl("daemon-reload");
  await systemctl("restart", schedule.unit);
  const monotonic = await scheduleOf(machine.store);
  expect([monotonic.onCalendar, hasExpired(monotonic)]).toEqual([null, false]);
  const hoursLeft = (Date.parse(monotonic.nextRun ?? "") - Date.now()) / 3_600_000;
  expect(hoursLeft).toBeGreaterThan(4.9);
  expect(hoursLeft).toBeLessThan(5.1);

  // While the job runs, the manager knows neither the next time nor a result.
  const job = join(unitFolder, `${schedule.service}.d`);
  await mkdir(job, { recursive: true });
  onTestFinished(async () => {
    await systemctl("stop", schedule.unit, schedule.service);
    await rm(job, { recursive: true });
  });
  await writeFile(join(job, "long.conf"), "[Service]\nExecStart=\nExecStart=sleep infinity\n");
  const calendar = "OnCalendar=\nOnCalendar=2020-01-01\nOnCalendar=daily\n";
  const soon = "OnActiveSec=1ms\nRandomizedDelaySec=0\nAccuracySec=1ms\n";
  await writeFile(change, `[Timer]\n${calendar}${soon}`);
  await systemctl("daemon-reload");
  await systemctl("restart", schedule.unit);
  await until(async () => (await scheduleOf(machine.store)).lastRun?.result === "running");
  const { nextRun, onCalendar } = await scheduleOf(machine.store);
  expect(onCalendar).toBe("2020-01-01 00:00:00");
  expect(Date.parse(nextRun ?? "")).toBeGreaterThan(Date.now());
  const run = { at: "2026-11-24T18:50:00Z", duration_ms: 1, stopped_ms: null, size: null };
  for (const exit_code of [0, 18]) await recordRun(machine.store, "backup", { ...run, exit_code });
  const findings = await asUsual(() => checkSchedule(machine.store, parseSource("keyring"), ""));
  expect([findings].flat().map(({ detail }) => detail)).toContain(
    `the last backup failed on ${run.at}: exit code 18`,
  );
});

async function scheduleOf(storePath: string): Promise<StoreSchedule> {
  const schedule = await asUsual(() => readSchedule(storePath, "backup"));
  if (schedule === undefined) throw new Error("there is no schedule");
  return schedule;
}

async function asUsual<Result>(use: () => Promise<Result>): Promise<Result> {
  const { XDG_CONFIG_HOME } = process.env;
  delete process.env.XDG_CONFIG_HOME;
  try {
    return await use();
  } finally {
    if (XDG_CONFIG_HOME !== undefined) process.env.XDG_CONFIG_HOME = XDG_CONFIG_HOME;
  }
}

test("what the scheduled backup needs is tried before it is scheduled, and the unit is remembered", async () => {
  const { machine, here } = await withSchedule();
  const settingsPath = machine.path("settings.json");
  const backup = async () => JSON.parse(await readFile(settingsPath, "utf8")).backup;
  const { service: _, ...directories } = await backup();
  const settings = JSON.parse(await readFile(settingsPath, "utf8"));
  const { recipients, ...others } = settings;
  await writeFile(settingsPath, JSON.stringify({ ...others, backup: directories }));
  const unit = uniqueName();
  // Not a hub by its command line, and not its unit's main process: only its owner can tell.
  const hub = `/bin/sh -c 'sh -c "exec 3<${machine.store}; sleep 1000"; :'`;
  await writeUnits({ [`${unit}.service`]: `[Service]\nExecStart=${hub}\n` });
  onTestFinished(() => removeUnits(`${unit}.service`));
  await systemctl("start", unit);
  await until(async () => (await findHolders(machine.store)).holders.length > 0);

  const install = ["schedule", "install", ...here];
  const noRecipient = await machine.run([...install, "--unit", unit], usual);
  expect([noRecipient.code, noRecipient.stderr]).toEqual([2, expect.stringMatching(/recipient/)]);
  await writeFile(settingsPath, JSON.stringify({ ...others, recipients, backup: directories }));
  const failed = await machine.run(install, usual);
  expect(failed.code).toBe(11);
  expect(failed.stderr).toContain(`--unit ${unit}`);
  expect(await ask(machine, "schedule", "status", ...here)).toEqual({
    schedule: null,
    drill: null,
  });
  expect(await backup()).toEqual(directories);

  expect(await machine.run([...install, "--unit", unit], usual)).toMatchObject({ code: 0 });
  expect(await backup()).toEqual({ ...directories, unit });
  const { schedule } = await ask<{ schedule: Schedule }>(machine, "schedule", "status", ...here);
  await systemctl("start", schedule.service);
  expect(await property(schedule.service, "Result")).toBe("success");

  // A locked store, a wrong passphrase: anything that the backup would fail with.
  const source = ["--passphrase-source", "command:false"];
  expect((await machine.run([...install, ...source], usual)).code).toBe(13);
});

test("the programs that the scheduled backup needs are known, with those that are gone", async () => {
  const { machine, here } = await withSchedule();
  const { schedule } = await ask<{ schedule: Schedule }>(machine, "schedule", "install", ...here);
  const main = `${root}dist/cli/main.js`;
  const unit = { manager: "systemd-user", name: schedule.service } as const;
  expect(scheduledService(machine.store, "backup")).toEqual(unit);
  expect(await findUnitPrograms([unit])).toEqual([
    { ...unit, path: process.execPath, isPresent: true, isHub: false },
    { ...unit, path: main, isPresent: true, isHub: false },
  ]);
  const path = join(unitFolder, schedule.service);
  const text = await readFile(path, "utf8");
  await writeFile(path, text.replace(process.execPath, `"${machine.path("no node here")}/node"`));
  await systemctl("daemon-reload");
  expect(await findUnitPrograms([unit])).toEqual([
    { ...unit, path: `${machine.path("no node here")}/node`, isPresent: false, isHub: false },
    { ...unit, path: main, isPresent: true, isHub: false },
  ]);
  // Fedora's node is a link to node-22.
  await writeFile(
    path,
    text.replace(`${process.execPath}`, "/usr/bin/node-22").replace(main, "/m.js"),
  );
  await systemctl("daemon-reload");
  expect(await findUnitPrograms([unit])).toEqual([
    { ...unit, path: "/usr/bin/node-22", isPresent: false, isHub: false },
    { ...unit, path: "/m.js", isPresent: false, isHub: false },
  ]);
  const packaged = `${machine.path("removed")}/hivemind-sqlcipher`;
  await writeFile(path, text.replace(/^ExecStart=.*$/m, `ExecStart=${packaged} backup`));
  await systemctl("daemon-reload");
  expect(await findUnitPrograms([unit])).toEqual([
    { ...unit, path: packaged, isPresent: false, isHub: false },
  ]);
});

test("a home directory with a blank in its name has scheduled backups too", async () => {
  const machine = await Machine.make();
  const command = `${process.execPath} ${root}dist/cli/main.js`;
  const { stdout } = await exec(`${root}scripts/private-session`, [
    machine.path("a home"),
    ...["/bin/sh", "-ec"],
    `${command} init --recovery-key-file "$HOME/key.txt" --to "$HOME/backups" --bundle-to "$HOME/bundles" >&2
     ${command} schedule install >&2
     unit=$(systemctl --user list-unit-files --no-legend 'hivemind-sqlcipher-backup-*.timer' | cut -d. -f1)
     mkdir "$HOME/.config/systemd/user/$unit.timer.d"
     echo "[Timer]" >"$HOME/.config/systemd/user/$unit.timer.d/own.conf"
     systemctl --user daemon-reload
     systemctl --user start "$unit.service"
     ${command} schedule status --json`,
  ]);
  const { schedule } = JSON.parse(stdout) as { schedule: Schedule };
  expect(schedule.last_run).toMatchObject({ result: "success" });
  expect(schedule.drop_ins).toEqual([expect.stringContaining("a home/.config/systemd/user/")]);
  const made = await readdir(machine.path("a home", "backups"));
  expect(made.filter((name) => name.endsWith(".db"))).toHaveLength(1);
});

test("a drill is scheduled beside the backups, keeps its time, runs, and is removed with them", async () => {
  const { machine, here } = await withSchedule();
  const wrong = await machine.run(["schedule", "install", "--drill", "sometimes", ...here], usual);
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining("sometimes")]);
  expect(await ask(machine, "schedule", "status", ...here)).toEqual({
    schedule: null,
    drill: null,
  });

  const install = ["schedule", "install", ...here];
  expect(await machine.run([...install, "--drill", "monthly"], usual)).toMatchObject({ code: 0 });
  const again = await ask<{ drill: Schedule }>(machine, ...install);
  expect(again.drill).toMatchObject({ on_calendar: "*-*-01 00:00:00", active: true });
  const { service } = again.drill;
  expect(scheduledService(machine.store, "drill").name).toBe(service);

  // Without a backup, the drill fails, and doctor reports it.
  await systemctl("start", service).catch(() => undefined);
  const failed = await ask<{ drill: Schedule }>(machine, "schedule", "status", ...here);
  expect(failed.drill.last_run).toMatchObject({ result: "exit-code", exit_code: 10 });
  const diagnosis = await machine.run(["doctor", ...here], usual);
  expect(diagnosis.stdout).toMatch(/the last scheduled drill failed on .*: exit code 10/);

  expect(diagnosis.stdout).not.toContain("is not running");

  await systemctl("stop", again.drill.unit);
  const stopped = await machine.run(["doctor", ...here], usual);
  expect(stopped.stdout).toContain(`${again.drill.unit} is not running`);
  expect(await ask<{ drill: Schedule }>(machine, ...install)).toMatchObject({
    drill: { on_calendar: "*-*-01 00:00:00", active: true },
  });

  expect(await machine.run(["backup", ...here], usual)).toMatchObject({ code: 0 });
  await systemctl("start", service);
  const drilled = await ask<{ drill: Schedule }>(machine, "schedule", "status", ...here);
  expect(drilled.drill.last_run).toMatchObject({ result: "success", exit_code: 0 });

  const removed = await machine.run(["schedule", "remove", ...here], usual);
  expect(removed.stdout).toContain(again.drill.unit);
  expect(await ask(machine, "schedule", "status", ...here)).toEqual({
    schedule: null,
    drill: null,
  });
});
