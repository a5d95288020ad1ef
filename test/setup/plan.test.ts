import { describe, expect, test } from "vitest";
import type { Environment } from "../../src/config/paths.js";
import { hasDesktop } from "../../src/service/boot.js";
import { findOtherDisks, parseMountedDisks } from "../../src/setup/directories.js";
import { formerKind, keepsHubRunning } from "../../src/setup/facts.js";
import type { HubSurvey } from "../../src/setup/hub-survey.js";
import { pipLine } from "../../src/setup/packages.js";
import { isFinished, type PlanOptions, planSetup } from "../../src/setup/plan.js";
import type { Survey } from "../../src/setup/survey.js";

const hub: HubSurvey = {
  manager: "systemd-user",
  name: "hivemind-listener.service",
  state: "running",
  otherUser: undefined,
  systemUser: undefined,
  command: ["/home/a/.venvs/ovos/bin/hivemind-core", "listen"],
  startsByRun: false,
  isServing: false,
  dropIn: "/home/a/.config/systemd/user/hivemind-listener.service.d/hivemind-sqlcipher.conf",
  isDropInWritable: true,
  isDropInOutdated: false,
  otherDropIn: undefined,
};

const packages: NonNullable<Survey["packages"]> = {
  python: "/home/a/.venvs/ovos/bin/python",
  canEncrypt: true,
  problem: null,
  format: 4,
  schemaVersion: 2,
  blacklistProblem: undefined,
  isWritable: true,
  directory: "/home/a/.venvs/ovos/lib/python3.11/site-packages",
};

const hubContainer: NonNullable<Survey["hubContainer"]> = {
  name: "hub",
  packageList: "/volume/hivemind.list",
  secrets: [],
};

const database: NonNullable<Survey["database"]> = {
  kind: "json",
  module: "hivemind-json-db-plugin",
  place: "/home/a/.local/share/hivemind-core/clients.json",
  clientCount: 5,
  hasBlacklists: false,
  isFirstRevoked: false,
  size: 4096,
  hasPassword: false,
  problem: undefined,
};

/** ovos-installer's machine before a setup. */
const before: Survey = {
  storePath: "/home/a/.local/share/hivemind-core/clients.db",
  settingsPath: "/home/a/.config/hivemind-sqlcipher/config.json",
  record: undefined,
  hubs: [hub],
  wantedUnit: undefined,
  otherHub: undefined,
  container: undefined,
  packages,
  server: {
    path: "/home/a/.config/hivemind-core/server.json",
    problem: undefined,
    isWritable: true,
    isIncomplete: false,
  },
  database,
  store: "absent",
  hasOwnStore: false,
  ownStoreFormat: undefined,
  hasPlainCopy: false,
  hasBundle: false,
  isHandedOver: false,
  keysProblem: undefined,
  source: { kind: "keyring" },
  isRoot: false,
  ownerProblem: undefined,
  boot: undefined,
  recipients: [],
  directories: {
    backups: "/media/a/one/hivemind-backups",
    bundles: "/media/a/two/hivemind-bundles",
    problem: undefined,
    notices: [],
  },
  spaceProblem: undefined,
  operation: undefined,
  schedule: undefined,
  installedCommand: undefined,
  scheduleProblem: undefined,
  lastBackup: undefined,
  isRestoreTested: false,
};

const options: PlanOptions = {
  installHubPackages: false,
  onlineBackups: false,
  isHeadless: false,
  scheduledCommand: "hivemind-sqlcipher backup",
  recoveryKeyFile: "/media/a/two/key.txt",
  isRecoveryKeyFileTaken: false,
  hasRecipient: false,
};

const plan = (changes: Partial<Survey>, chosen: Partial<PlanOptions> = {}) =>
  planSetup({ ...before, ...changes }, { ...options, ...chosen });

const needed = (changes: Partial<Survey>) =>
  plan(changes)
    .steps.filter(({ state }) => state === "needed")
    .map(({ id }) => id);

test("a JSON hub needs every step but the packages that it has", () => {
  const { obstacles } = plan({});
  expect(obstacles).toEqual([]);
  expect(needed({})).toEqual([
    ...["keys", "drop-in", "store", "server.json", "restart", "backup", "plain-copy", "schedule"],
  ]);
  for (const { changes, undo } of plan({}).steps) {
    expect(changes).toMatch(/^[a-z].*[^.]$/);
    expect(undo).not.toBe("");
  }
});

test.each([
  [{}, {}, "make a recovery key (/media/a/two/key.txt), keep"],
  [{}, { recoveryKeyFile: undefined }, "make a recovery key (shown on the terminal"],
  [{}, { recoveryKeyFile: undefined, hasRecipient: true }, "to the recovery key in use, keep"],
  [{ recipients: ["age1"] }, { recoveryKeyFile: undefined }, "to the recovery key in use, keep"],
])("the recovery key of %j with %j", (found, chosen, expected) => {
  const { steps } = plan(found, chosen);
  expect(steps.find(({ id }) => id === "keys")?.changes).toContain(expected);
});

test("a plain SQLite store has no copy to remove", () => {
  const sqlite = { ...database, kind: "sqlite", place: before.storePath } as const;
  expect(needed({ database: sqlite, store: "plaintext" })).not.toContain("plain-copy");
});

test("a store that a hub uses is never made again, also without a bundle", () => {
  const record = { phase: "setting-up", database: { kind: "json", place: database.place } };
  const found: Partial<Survey> = {
    ...{ record: record as never, store: "sqlcipher", hasOwnStore: true, isHandedOver: true },
    ...{ hubs: [{ ...hub, startsByRun: true, isServing: true }] },
  };
  expect(needed(found)).not.toContain("store");
});

describe("a hub that uses its store otherwise since a setup from JSON", () => {
  const former = { kind: "json", place: database.place };
  const record = { phase: "complete", database: former } as never;
  const now = { ...database, place: before.storePath };
  const steps = (found: Partial<Survey>) =>
    plan({ record, hasBundle: true, recipients: ["age1"], ...found }).steps;
  const changes = (found: Partial<Survey>) =>
    steps(found).find(({ id }) => id === "store")?.changes;

  test("decrypted: the store is encrypted in place", () => {
    const found = { database: { ...now, kind: "sqlite" }, store: "plaintext" } as const;
    expect(formerKind({ record, database: found.database, isHandedOver: false })).toBe("sqlite");
    expect(changes(found)).toBe(`encrypt ${before.storePath} in place`);
    expect(steps(found).map(({ id }) => id)).not.toContain("plain-copy");
  });

  test("with a password in server.json: the store is taken over", () => {
    const found = {
      database: { ...now, kind: "sqlcipher", hasPassword: true },
      store: "sqlcipher",
    } as const;
    expect(formerKind({ record, database: found.database, isHandedOver: false })).toBe("sqlcipher");
    expect(changes(found)).toBe(`take over ${before.storePath} with its password`);
    const killed = { ...found, record: { phase: "setting-up", database: former } as never };
    expect(changes(killed)).toBe(`take over ${before.storePath} with its password`);
  });

  test("handed over: the record says what it used before", () => {
    const encrypted = { ...now, kind: "sqlcipher" } as const;
    expect(formerKind({ record, database: encrypted, isHandedOver: true })).toBe("json");
  });
});

test("a JSON database that an earlier setup kept is not removed, but named", () => {
  const record = {
    ...{ phase: "complete", plain_copy_kept: true },
    database: { kind: "json", place: database.place },
  } as never;
  const kept = { record, isHandedOver: true, hasPlainCopy: true };
  expect(plan(kept).steps.map(({ id }) => id)).not.toContain("plain-copy");
  expect(plan(kept).notices.join()).toContain(`${database.place} was changed after it was copied`);
  expect(
    needed({ ...kept, record: { ...(record as object), plain_copy_kept: false } as never }),
  ).toContain("plain-copy");
});

test("on HiveMind 4, the plan names the access key that revoked clients for unused ids admit", () => {
  const first = { ...database, isFirstRevoked: true };
  const old = { ...packages, canEncrypt: false, schemaVersion: 0 } as const;
  const key = 'presents the access key "revoked"';
  expect(plan({ database: first, packages: old }).notices.join()).toContain(key);
  expect(plan({ database: first }).notices.join()).not.toContain(key);
  expect(plan({ packages: old }).notices.join()).not.toContain(key);
});

test("what a killed setup has done is not done again", () => {
  const record = { phase: "setting-up", database: { kind: "json", place: database.place } };
  const found: Partial<Survey> = {
    ...{ record: record as never, store: "sqlcipher", hasOwnStore: true, hasBundle: true },
    ...{ recipients: ["age1"], hubs: [{ ...hub, startsByRun: true }] },
  };
  expect(needed(found)).toEqual(["server.json", "restart", "backup", "plain-copy", "schedule"]);
  expect(plan(found).obstacles).toEqual([]);
});

test("a finished machine has nothing to do, and an unfinished record is not finished", () => {
  const record = { phase: "complete", database: { kind: "json", place: database.place } };
  const found: Partial<Survey> = {
    ...{ record: record as never, store: "sqlcipher", hasBundle: true, recipients: ["age1"] },
    ...{ hubs: [{ ...hub, startsByRun: true, isServing: true }], isHandedOver: true },
    ...{ lastBackup: { path: "x", bundle: "y" }, schedule: { active: true } as never },
    installedCommand: options.scheduledCommand,
  };
  expect(needed(found)).toEqual([]);
  expect(isFinished(plan(found), { ...before, ...found })).toBe(true);
  const unfinished = { ...found, record: { ...record, phase: "setting-up" } as never };
  expect(isFinished(plan(unfinished), { ...before, ...unfinished })).toBe(false);

  // Without a recovery key the backup's bundle is made again, with the key.
  expect(needed({ ...found, recipients: [] })).toEqual(["keys", "backup"]);
  const unused = `no recovery key is made in ${options.recoveryKeyFile}`;
  expect(plan(found).notices.join()).toContain(unused);
  expect(plan({ ...found, recipients: [] }).notices.join()).not.toContain(unused);
});

test("a drop-in that starts another hub than the unit itself is written again", () => {
  const done = { isHandedOver: true, store: "sqlcipher", hasBundle: true } as const;
  const served = { ...hub, startsByRun: true, isServing: true };
  const steps = (each: Survey["hubs"][number]) => needed({ ...done, hubs: [each] });
  const outdated = { ...served, isDropInOutdated: true };
  expect(steps(outdated).filter((id) => !steps(served).includes(id))).toEqual([
    ...["drop-in", "restart"],
  ]);
  const { obstacles } = plan({ ...done, hubs: [{ ...outdated, state: "failed" }] });
  expect(obstacles[0]).toMatchObject({ id: "drop-in", fix: expect.stringContaining("doctor") });
});

test("a timer with another command is changed, and one that leaves the hub running stays so", () => {
  const schedule = { active: true, unit: "backup.timer" } as never;
  const online = "hivemind-sqlcipher backup --online";
  const chosen = { onlineBackups: true, scheduledCommand: online };
  const changed = plan({ schedule, installedCommand: options.scheduledCommand }, chosen);
  expect(changed.steps.at(-1)).toMatchObject({
    ...{ id: "schedule", state: "needed" },
    changes: expect.stringMatching(/^let backup\.timer, .* without stopping the hub$/),
  });
  expect(plan({ schedule, installedCommand: online }, chosen).steps.at(-1)?.state).toBe("done");
  const stopped = { active: false, unit: "backup.timer" } as never;
  expect(plan({ schedule: stopped, installedCommand: online }, chosen).steps.at(-1)).toMatchObject({
    ...{ state: "needed", changes: expect.stringMatching(/^let backup\.timer, at its times,/) },
  });
  expect(keepsHubRunning({ ...before, installedCommand: online }, false)).toBe(true);
  const stops = `${options.scheduledCommand} --db /x--online`;
  expect(keepsHubRunning({ ...before, installedCommand: stops }, false)).toBe(false);
});

test("a store that a setup made in a format that the hub cannot read is made again", () => {
  const record = { phase: "setting-up", database: { kind: "json", place: database.place } };
  const found: Partial<Survey> = {
    ...{ record: record as never, store: "sqlcipher", hasOwnStore: true, hasBundle: true },
    ...{ recipients: ["age1"], ownStoreFormat: 4 },
  };
  expect(needed(found)).not.toContain("store");
  expect(needed({ ...found, ownStoreFormat: 3 })).toEqual(
    expect.arrayContaining(["keys", "store", "backup"]),
  );
  expect(needed({ ...found, packages: { ...packages, canEncrypt: false } })).toContain("store");
});

describe("what is in the way is named with its fix", () => {
  const oneHub = (changes: Partial<HubSurvey>) => ({ hubs: [{ ...hub, ...changes }] });
  const cannot = { ...packages, canEncrypt: false, problem: null };
  const other = { ...hub, name: "hivemind-hub.service" };
  test.each<[string, Partial<Survey>, string, string]>([
    ["no hub", { hubs: [] }, "no unit starts hivemind-core listen", "--unit NAME"],
    [
      "no such unit",
      { hubs: [], wantedUnit: "x" },
      "there is no unit or container x",
      "list-units",
    ],
    [
      "a hub in a container",
      { hubs: [], otherHub: { message: "process 7 is a hub in a container", hint: undefined } },
      "container",
      "--unit",
    ],
    [
      "a hub in a container of an engine that this user may not use",
      { hubs: [], otherHub: { message: "this user may not use docker", hint: "Join docker." } },
      "this user may not use docker",
      "Join docker.",
    ],
    ["two hubs", { hubs: [hub, other] }, "several units", "--unit hivemind-hub"],
    ["a crash loop", oneHub({ state: "restarting" }), "ends again and again", "journalctl --user"],
    ["a failed hub", oneHub({ state: "failed" }), "has failed", "journalctl --user"],
    ["a stopped hub", oneHub({ state: "stopped" }), "does not run", "systemctl --user start"],
    ["a masked unit", oneHub({ state: "masked" }), "is masked", "systemctl --user unmask"],
    ["root's hub", oneHub({ otherUser: "root" }), "runs as user root", "sudo hivemind-sqlcipher"],
    [
      "a hub of the system with User=, for another user",
      oneHub({ manager: "systemd", systemUser: "ovos", otherUser: "ovos" }),
      "is a system unit with User=ovos",
      "sudo hivemind-sqlcipher setup",
    ],
    [
      "the same, for that user",
      oneHub({ manager: "systemd", systemUser: "ovos", isDropInWritable: false }),
      "is a system unit with User=ovos",
      "sudo hivemind-sqlcipher setup",
    ],
    [
      "the same, for root with a keyring",
      { ...oneHub({ manager: "systemd", systemUser: "ovos" }), isRoot: true },
      "is a system unit with User=ovos",
      "Leave out --passphrase-source",
    ],
    [
      "files of another user than the hub's",
      { ownerProblem: "/x belongs to user 0, and the hub runs as user 7" },
      "/x belongs to user 0",
      "chown",
    ],
    [
      "another drop-in",
      oneHub({ otherDropIn: "/x/y.conf" }),
      "/x/y.conf sets the command",
      "Move it away",
    ],
    [
      "the same, for a compose file",
      oneHub({ manager: "docker", name: "hub", otherDropIn: "/x/copy.service" }),
      "/x/copy.service exists already",
      "Move it away, or add the lines",
    ],
    [
      "no right to write the drop-in",
      oneHub({ isDropInWritable: false }),
      "cannot be written",
      "run --print-unit dropin --unit hivemind-listener.service",
    ],
    [
      "the same, for a compose file",
      { ...oneHub({ manager: "docker", name: "hub", isDropInWritable: false }), hubContainer },
      "cannot be written",
      "run --print-unit compose --container hub",
    ],
    [
      "a read-only server.json",
      { server: { ...before.server, isWritable: false } },
      "read-only",
      "hivemind-sqlite-db-plugin",
    ],
    [
      "a broken server.json",
      { server: { ...before.server, problem: { message: "m", hint: "h" } } },
      "m",
      "h",
    ],
    [
      "an incomplete server.json",
      { server: { ...before.server, isIncomplete: true } },
      "network_protocol",
      "print-config",
    ],
    [
      "Redis",
      { database: { ...database, kind: "other", module: "hivemind-redis-db-plugin" } },
      "redis",
      "other-databases",
    ],
    [
      "no database",
      { database: { ...database, kind: "absent" } },
      "does not exist",
      "Start the hub",
    ],
    ["another store in its place", { store: "sqlcipher" }, "already", "mv "],
    [
      "a password without effect",
      { database: { ...database, kind: "sqlite", hasPassword: true } },
      "ignores it",
      "Remove",
    ],
    [
      "an encrypted store without a password",
      { database: { ...database, kind: "sqlcipher" }, store: "sqlcipher" },
      "no password",
      "run --print-unit",
    ],
    [
      "an encrypted store without a password, in a container",
      { database: { ...database, kind: "sqlcipher" }, store: "sqlcipher", hubContainer },
      "no password",
      "run --print-unit quadlet --container hub",
    ],
    [
      "a password from a secret of the engine",
      {
        ...{ database: { ...database, kind: "sqlcipher" }, store: "sqlcipher" },
        hubContainer: { ...hubContainer, secrets: ["server.json"] },
      },
      "from secrets of podman (server.json)",
      "podman secret rm server.json && hivemind-sqlcipher --db '/home/a/.local/share/hivemind-core/clients.db' rotate",
    ],
    [
      "a passphrase source in a secret of the engine",
      { source: { kind: "command", command: "podman secret inspect --showsecret hub" } },
      "secrets of a container engine",
      "--passphrase-source keyring",
    ],
    [
      "an image whose plugin does not encrypt",
      { packages: cannot, hubContainer },
      "the container hub cannot open an encrypted store",
      "'sqlcipher3>=0.6.2' >> '/volume/hivemind.list'\nsystemctl --user restart",
    ],
    [
      "a container without the Python of a hub",
      { packages: undefined, hubContainer: { ...hubContainer, packageList: undefined } },
      "its Python was not found",
      "mount .config/hivemind",
    ],
    [
      "a paused container",
      { hubs: [{ ...hub, state: "paused" }], hubContainer },
      "is paused",
      "unpause hub",
    ],
    ["an unknown Python", { packages: undefined }, "Python", "--hub-python"],
    [
      "a plugin that ignores the password",
      { packages: cannot },
      "ignores a password",
      "--install-hub-packages",
    ],
    [
      "a locked keyring",
      { keysProblem: { message: "locked", hint: "Unlock it." } },
      "locked",
      "--passphrase-source file:PATH",
    ],
    [
      "a keyring for a container of root",
      { hubs: [{ ...hub, manager: "systemd" }], hubContainer, source: { kind: "keyring" } },
      "has no keyring",
      "Leave out --passphrase-source",
    ],
    [
      "no room",
      { spaceProblem: { message: "no space left", hint: undefined } },
      "no space",
      "Free",
    ],
    ["an operation", { operation: "rotate" }, "rotate", "list-clients"],
    [
      "an undo",
      { record: { phase: "undoing", database: { kind: "json" } } as never },
      "undo",
      "setup --undo",
    ],
  ])("%s", (_, changes, problem, fix) => {
    const { obstacles } = plan(changes);
    expect(obstacles.map((each) => each.problem).join("\n")).toContain(problem);
    expect(obstacles.map((each) => each.fix).join("\n")).toContain(fix);
    expect(obstacles).toHaveLength(1);
  });

  test("a hub in a container, with the steps that encrypt its store", () => {
    const box: NonNullable<Survey["container"]> = {
      ...{ engine: "docker" as const, name: "hub", store: "/volume/clients.db" },
      ...{ database: "sqlite" as const, hasPassword: false, hasCopy: false, hasServerJson: true },
      ...{ unit: undefined, quadletUnit: undefined, problem: "a reason", source: undefined },
    };
    const fixOf = (container: Survey["container"]) => {
      const { obstacles } = plan({ hubs: [], container });
      expect(obstacles).toMatchObject([
        { id: "container", problem: "the hub runs in the container hub (docker): a reason" },
      ]);
      return obstacles[0]?.fix;
    };
    const inOrder = (...parts: string[]) => expect.stringMatching(new RegExp(parts.join("[^]*")));
    expect(fixOf({ ...box, hasCopy: true })).toEqual(
      inOrder("mkdir -p -m 700 ", "\nhivemind-sqlcipher --db '?/volume/clients.db'? encrypt"),
    );
    expect(fixOf({ ...box, database: "sqlcipher", hasPassword: true })).toEqual(
      inOrder(
        ...["init --adopt --service docker --unit hub --bundle-to", "run --prepare"],
        ...["run --print-unit compose --container hub", "--remove-password"],
        ...["rotate --service docker", "backup --service docker --unit hub", "schedule install"],
      ),
    );
    const locked = { ...box, database: "sqlcipher" } as const;
    expect(fixOf(locked)).toEqual(
      inOrder(
        ...["init --adopt --service docker --unit hub --bundle-to .* --passphrase-file FILE\n"],
        ...["run --prepare", "run --print-unit compose", "backup --service docker --unit hub"],
      ),
    );
    expect(fixOf({ ...locked, hasCopy: true })).not.toContain("--adopt");
    expect(fixOf({ ...box, source: "sealed:/etc/sealed" })).toContain(
      "--passphrase-source 'sealed:/etc/sealed' run --print-unit compose",
    );
    const unit = { manager: "systemd", name: "hub.service" } as const;
    expect(fixOf({ ...box, unit })).toContain("encrypt --service systemd --unit hub ");
    expect(fixOf({ ...box, store: undefined })).toContain("Put the store onto a volume first");
    expect(fixOf({ ...box, hasServerJson: false })).toContain(
      "Put its settings onto a volume first",
    );
    expect(fixOf({ ...box, database: "other" })).toContain("other-databases.md");
  });

  test("packages that may not be written, although they may be installed", () => {
    const found = { packages: { ...cannot, isWritable: false } };
    const { obstacles } = plan(found, { installHubPackages: true });
    expect(obstacles.map(({ id }) => id)).toEqual(["packages-directory"]);
    expect(obstacles[0]?.fix).toContain(pipLine(packages.python));
    expect(plan({ packages: cannot }, { installHubPackages: true }).obstacles).toEqual([]);
  });

  test("a hub of HiveMind 4 whose clients have blacklists", () => {
    const old = {
      ...packages,
      schemaVersion: 0,
      blacklistProblem: "stores them elsewhere",
    } as const;
    const blacklisted = { ...database, hasBlacklists: true };
    const { obstacles } = plan({ packages: old, database: blacklisted });
    expect(obstacles.map(({ id }) => id)).toEqual(["blacklists"]);
    expect(obstacles[0]?.fix).toContain("-m pip install --pre --upgrade hivemind-core");
    expect(plan({ packages: old }).obstacles).toEqual([]);
    // pip would install the plugin that moves them.
    const without = { ...cannot, schemaVersion: 0 } as const;
    const install = { installHubPackages: true };
    const ids = plan({ packages: without, database: blacklisted }, install).obstacles;
    expect(ids.map(({ id }) => id)).toEqual(["blacklists"]);
    expect(plan({ packages: without }, install).obstacles).toEqual([]);
    // Setup reads the clients of a plain store before it installs the packages.
    const sqlite = { ...database, kind: "sqlite", hasBlacklists: undefined } as const;
    expect(plan({ packages: without, database: sqlite }, install).obstacles).toEqual([]);
    const unknown = { ...cannot, schemaVersion: undefined };
    const [obstacle] = plan({ packages: unknown, database: blacklisted }, install).obstacles;
    expect(obstacle?.problem).toContain("may be HiveMind 4");
  });

  test("a file in the place of the recovery key, unless no key is needed", () => {
    const taken = { isRecoveryKeyFileTaken: true };
    expect(plan({}, taken).obstacles.map(({ id }) => id)).toEqual(["recovery-key-file"]);
    const kept = {
      store: "sqlcipher",
      hasBundle: true,
      hasOwnStore: true,
      recipients: ["age1"],
    } as const;
    expect(plan(kept, taken).obstacles).toEqual([]);
  });
});

test("disks that a user attached are found, and no memory or kernel file systems", () => {
  const table = [
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    "30 22 8:17 / /media/a/stick\\040one rw shared:9 - vfat /dev/sdb1 rw",
    "31 22 8:33 / /mnt/disk rw - btrfs /dev/sdc1 rw",
    "32 22 0:40 / /media/memory rw - tmpfs tmpfs rw",
    "33 22 0:41 / /srv/nas rw master:1 - nfs4 nas:/x rw",
    "34 22 8:49 / /boot rw - ext4 /dev/sdd1 rw",
    "",
  ].join("\n");
  expect(parseMountedDisks(table)).toEqual(["/media/a/stick one", "/mnt/disk", "/srv/nas"]);
});

test("a disk whose metadata cannot be read is not chosen", async () => {
  // The disk of another user, or a crashed file system, fails with another error.
  const unreadable = `/mnt/${"x".repeat(300)}`;
  const table = `30 22 8:17 / ${unreadable} rw shared:9 - fuseblk /dev/sdb1 rw\n`;
  expect(parseMountedDisks(table)).toEqual([unreadable]);
  expect(await findOtherDisks("/", table)).toEqual([]);
});

describe("a machine without a login", () => {
  const boot = {
    problem: "your systemd does not start at boot (loginctl enable-linger a)",
    fixes: ["sudo loginctl enable-linger a"],
  };

  test.each<[Environment, boolean]>([
    [{}, false],
    [{ XDG_CURRENT_DESKTOP: "GNOME" }, true],
    [{ WAYLAND_DISPLAY: "wayland-0" }, true],
    [{ DISPLAY: ":0" }, true],
    [{ DISPLAY: "localhost:10.0" }, false],
    [{ DISPLAY: ":0", SSH_CONNECTION: "192.0.2.1 50000 192.0.2.2 22" }, false],
  ])("with %j, it has a desktop: %j", (environment, expected) => {
    expect(hasDesktop(environment)).toBe(expected);
  });

  test("--headless names the commands of root that a user's unit needs", () => {
    const { obstacles, notices } = planSetup({ ...before, boot }, { ...options, isHeadless: true });
    expect(obstacles.map(({ id }) => id)).toEqual(["boot"]);
    expect(obstacles[0]?.fix).toContain("\nsudo loginctl enable-linger a");
    expect(notices.join()).not.toContain("after a reboot");
  });

  test("without it, setup says that the hub waits", () => {
    const { obstacles, notices } = planSetup({ ...before, boot }, options);
    expect(obstacles).toEqual([]);
    expect(notices.join()).toContain("(setup --headless): your systemd does not start at boot");
  });

  test("a system unit with User= gets the sealed passphrase", () => {
    const systemHub: HubSurvey = { ...hub, manager: "systemd", systemUser: "ovos" };
    const source = { kind: "sealed", path: "/etc/credstore.encrypted/hivemind-sqlcipher" } as const;
    const survey = { ...before, hubs: [systemHub], isRoot: true, source };
    const { obstacles, steps } = planSetup(survey, options);
    expect(obstacles).toEqual([]);
    const changes = steps.map(({ changes: text }) => text).join("\n");
    expect(changes).toContain(`seal a passphrase to this machine in ${source.path}`);
    expect(changes).toContain("lets systemd unseal the passphrase for the hub");
  });
});
