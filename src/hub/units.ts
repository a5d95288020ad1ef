/**
 * Generates systemd units that start the hub with its passphrase, and units that unlock the keyring
 * on a machine without a desktop.
 *
 * The user manager must not mount, so `run` creates a user namespace and mounts the copy of
 * `server.json` there. The system manager mounts the copy itself, so `run` ends before the hub
 * starts, and no user namespace is needed.
 */
import {
  escapeSetting,
  keyringUnit,
  quoteArg,
  quoteExpandedCommand,
} from "../service/unit-file.js";

/** The name of the credential with the keyring's password. */
const keyringCredential = "hivemind-keyring";

export interface UserUnit {
  readonly kind: "user";
  /**
   * The command line of `hivemind-sqlcipher run`, with its options. As in a unit, `$` begins a
   * variable. Programs have absolute paths, because a service manager has another PATH than a
   * shell.
   */
  readonly run: readonly string[];
  /** The command line of the hub, likewise. */
  readonly hub: readonly string[];
}

export interface SystemUnit extends Omit<UserUnit, "kind"> {
  readonly kind: "system";
  readonly user?: string;
  /** The hub's `server.json`, with symbolic links resolved. */
  readonly serverJson: string;
  /**
   * The credential for `run`, sealed to this machine by `systemd-creds encrypt
   * --name=hivemind-sqlcipher - FILE`: the store's passphrase or the password of the Redis server.
   */
  readonly credential: string;
  /** Whether the hub starts on its real `server.json` if `run --prepare` fails, as during setup. */
  readonly mayFail?: boolean;
}

export function renderUnit(unit: UserUnit | SystemUnit): string {
  return unit.kind === "user" ? renderUserUnit(unit) : renderSystemUnit(unit);
}

/**
 * Returns the text of a drop-in for the unit that already starts the hub. A second unit would start
 * a second hub on the store, and an installer may rewrite the unit's own file.
 */
export function renderDropIn(unit: UserUnit | SystemUnit): string {
  if (unit.kind === "user") {
    return `[Unit]
After=${keyringUnit}

[Service]
# replaces the commands of the unit
ExecStart=
${renderUserService(unit)}${commonSettings}`;
  }
  return `[Service]
${renderPreparation(unit)}${commonSettings}`;
}

/**
 * Returns the text of a drop-in for a unit that prepares its hub with `run --prepare` itself:
 * systemd runs the commands of a drop-in after those of the unit.
 *
 * @param commands - all commands before the hub, as in a unit
 */
export function renderPreparationDropIn(commands: readonly string[]): string {
  return `[Service]
# replaces the commands of the unit
ExecStartPre=
${commands.map((command) => `ExecStartPre=${command}\n`).join("")}`;
}

function renderUserService({ run, hub }: Omit<UserUnit, "kind">): string {
  return `Type=exec
ExecStart=${quoteExpandedCommand(...run, "--", ...hub)}
# run forwards SIGTERM to the hub; systemd kills what is left after the time-out
KillMode=mixed
# 128 + SIGTERM: the hub was stopped before it installed its signal handler
SuccessExitStatus=143
`;
}

function renderUserUnit(unit: UserUnit): string {
  return `[Unit]
Description=HiveMind hub with its encrypted client store
After=${keyringUnit}

[Service]
${renderUserService(unit)}${restartSettings}
[Install]
WantedBy=default.target
`;
}

function renderPreparation({ run, hub, ...unit }: SystemUnit): string {
  // Several hubs on a machine must not share a directory.
  const directory = "hivemind-sqlcipher-%N";
  const prepared = `%t/${directory}/server.json`;
  return `# sealed to this machine by systemd-creds; only this unit's processes can read it
LoadCredentialEncrypted=hivemind-sqlcipher:${escapeSetting(unit.credential)}
# memory, removed when the unit stops
RuntimeDirectory=${directory}
RuntimeDirectoryMode=0700
BindReadOnlyPaths=-${prepared}:${quoteArg(unit.serverJson)}
ExecStartPre=${unit.mayFail ? "-" : ""}${quoteExpandedCommand(...run, "--prepare")} ${prepared} -- ${quoteExpandedCommand(...hub)}
`;
}

function renderSystemUnit(unit: SystemUnit): string {
  return `[Unit]
Description=HiveMind hub with its encrypted client store
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
${unit.user === undefined ? "" : `User=${escapeSetting(unit.user)}\n`}\
${renderPreparation(unit)}ExecStart=${quoteExpandedCommand(...unit.hub)}
${restartSettings}
[Install]
WantedBy=multi-user.target
`;
}

/**
 * After the exit codes 2 (usage) and 17 (refused), a restart fails again until a user corrects the
 * cause. After 13 (no passphrase), a restart succeeds once the keyring is unlocked.
 */
const commonSettings = `RestartPreventExitStatus=2 17
# a core dump would contain the passphrase
LimitCORE=0
`;

export const restartSettings = `Restart=on-failure
RestartSec=5
${commonSettings}`;

export interface KeyringUnit {
  /**
   * The keyring's password, sealed to this machine by `systemd-creds encrypt
   * --name=hivemind-keyring - FILE`.
   */
  readonly credential: string;
  /**
   * The user of the keyring, for a unit of the system manager, which opens sealed credentials since
   * systemd 250. Absent for a unit of the user manager, which does since systemd 256.
   */
  readonly owner?: { readonly user: string; readonly uid: number } | undefined;
}

/** Returns a unit that unlocks the user's keyring at boot. */
export function renderKeyringUnit({ credential, owner }: KeyringUnit): string {
  const unlock = `gnome-keyring-daemon --replace --unlock --components=secrets`;
  const where =
    owner !== undefined
      ? {
          unit: `Requires=user@${owner.uid}.service\nAfter=user@${owner.uid}.service\n`,
          service: `User=${escapeSetting(owner.user)}
Environment=XDG_RUNTIME_DIR=/run/user/${owner.uid}
Environment=DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/${owner.uid}/bus
`,
          target: "multi-user.target",
        }
      : { unit: "", service: "", target: "default.target" };
  return `[Unit]
Description=Keyring, unlocked by a credential sealed to this machine
${where.unit}
[Service]
Type=forking
${where.service}LoadCredentialEncrypted=${keyringCredential}:${escapeSetting(credential)}
ExecStart=/bin/sh -c 'exec ${unlock} <"$$CREDENTIALS_DIRECTORY/${keyringCredential}"'
# the daemon forks before it owns its bus name, and the hub needs the name
ExecStartPost=/bin/sh -c 'until busctl --user status org.freedesktop.secrets >/dev/null 2>&1; do sleep 0.1; done'
TimeoutStartSec=60

[Install]
WantedBy=${where.target}
`;
}
