/**
 * Ready systemd units: the hub started with its passphrase, and the keyring unlocked on a machine where nobody logs in.
 *
 * They differ in who makes the memory-backed `server.json`. A user's manager may not mount, so `run` does, in a user
 * namespace. The system's manager can: it binds the file itself, so no process of ours stays beside the hub, and it works
 * where user namespaces are forbidden.
 */
import { execLine, keyringUnit, quoteArg, settingValue } from "../service/unit-file.js";

/** The credential that holds the keyring's password. */
const keyringCredential = "hivemind-keyring";

/** A command as its words; the first is an absolute path, since a manager's PATH is not a shell's. */
export type CommandArgs = readonly string[];

export interface UserUnit {
  readonly kind: "user";
  /** How `hivemind-sqlcipher run` is started, with its options. */
  readonly run: CommandArgs;
  /** How the hub is started. */
  readonly hub: CommandArgs;
}

export interface SystemUnit extends Omit<UserUnit, "kind"> {
  readonly kind: "system";
  /** The account that the hub runs as. */
  readonly user?: string;
  /** The hub's own `server.json`, behind every symbolic link. */
  readonly serverJson: string;
  /**
   * What `run` reads as its credential, the store's passphrase or the password of the hub's Redis server, sealed to this
   * machine: `systemd-creds encrypt --name=hivemind-sqlcipher - FILE`.
   */
  readonly credential: string;
}

/** A hub's unit, as text for a file. */
export function renderUnit(unit: UserUnit | SystemUnit): string {
  return unit.kind === "user" ? userUnit(unit) : systemUnit(unit);
}

function userUnit({ run, hub }: UserUnit): string {
  return `[Unit]
Description=HiveMind hub with its encrypted client store
After=${keyringUnit}

[Service]
Type=exec
ExecStart=${execLine(...run, "--", ...hub)}
# TERM goes to run, which hands it on; what is left after the time-out is killed.
KillMode=mixed
# 128 + TERM: a hub that had not yet set itself up to end by it
SuccessExitStatus=143
${common}
[Install]
WantedBy=default.target
`;
}

function systemUnit({ run, hub, ...unit }: SystemUnit): string {
  const prepared = "%t/hivemind-sqlcipher/server.json";
  return `[Unit]
Description=HiveMind hub with its encrypted client store
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
${unit.user === undefined ? "" : `User=${settingValue(unit.user)}\n`}\
# sealed to this machine by systemd-creds; only this unit's processes can read it
LoadCredentialEncrypted=hivemind-sqlcipher:${settingValue(unit.credential)}
# memory, removed when the unit stops
RuntimeDirectory=hivemind-sqlcipher
RuntimeDirectoryMode=0700
BindReadOnlyPaths=-${prepared}:${quoteArg(unit.serverJson)}
ExecStartPre=${execLine(...run, "--prepare")} ${prepared} ${execLine("--", ...hub)}
ExecStart=${execLine(...hub)}
${common}
[Install]
WantedBy=multi-user.target
`;
}

/** 2 and 17 say that something has to be corrected by hand; 13 passes when the keyring is unlocked. */
const common = `Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2 17
# a core dump would hold the passphrase
LimitCORE=0
`;

export interface KeyringUnit {
  /**
   * `user`: for the user's own manager, where it can open sealed credentials (systemd 256 and later). `system`: for the
   * system's manager, from systemd 250 on.
   */
  readonly kind: "user" | "system";
  /** The keyring's password, sealed to this machine: `systemd-creds encrypt --name=hivemind-keyring - FILE`. */
  readonly credential: string;
  /** Whose keyring; for `system` alone. */
  readonly owner?: { readonly user: string; readonly uid: number };
}

/** A unit that unlocks the user's keyring at boot, on a machine without a desktop. */
export function renderKeyringUnit({ kind, credential, owner }: KeyringUnit): string {
  const unlock = `gnome-keyring-daemon --replace --unlock --components=secrets`;
  const where =
    kind === "system" && owner !== undefined
      ? {
          unit: `Requires=user@${owner.uid}.service\nAfter=user@${owner.uid}.service\n`,
          service: `User=${settingValue(owner.user)}
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
${where.service}LoadCredentialEncrypted=${keyringCredential}:${settingValue(credential)}
ExecStart=/bin/sh -c 'exec ${unlock} <"$$CREDENTIALS_DIRECTORY/${keyringCredential}"'
# it goes into the background before it has its name on the bus, and the hub is to find it there
ExecStartPost=/bin/sh -c 'until busctl --user status org.freedesktop.secrets >/dev/null 2>&1; do sleep 0.1; done'
TimeoutStartSec=60

[Install]
WantedBy=${where.target}
`;
}
