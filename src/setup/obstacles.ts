/** Finds from a survey what prevents a setup, each with its fix. Pure. */
import type { ErrorKind } from "../errors.js";
import { upgradeLine } from "../hub/packages.js";
import { engineSecretError, formatSource, isEngineSecret } from "../keys/source.js";
import { isUnit, serviceOptions, systemctlLine } from "../service/systemctl.js";
import { shellQuote } from "../text/escape.js";
import { containerSteps, programLineFor } from "./container.js";
import { formerKind, isSealedUnit, needsKeys } from "./facts.js";
import type { HubSurvey } from "./hub-survey.js";
import { isHiveMind4, type PackagesSurvey, packageListLine, pipLine } from "./packages.js";
import { logLine, serviceLine } from "./serving.js";
import type { HubContainerSurvey, Survey } from "./survey.js";

/** A reason why a setup cannot begin. */
export interface Obstacle {
  readonly id: string;
  readonly kind: ErrorKind;
  readonly problem: string;
  readonly fix: string;
}

export interface ObstacleOptions {
  /** Whether the hub's packages may be installed: by an option, or because the user is asked. */
  readonly installHubPackages: boolean;
  /** Whether the hub must start after a reboot without a login. */
  readonly isHeadless: boolean;
  /** The path for a new recovery key; undefined if it is shown on the terminal. */
  readonly recoveryKeyFile: string | undefined;
  /** Whether that file exists, and no setup in progress made it. */
  readonly isRecoveryKeyFileTaken: boolean;
}

type Finding = Obstacle | undefined;

export function findObstacles(survey: Survey, options: ObstacleOptions): Obstacle[] {
  // The rest of the survey is not about the hub in this container.
  const findings =
    survey.hubs.length === 0 && survey.container !== undefined
      ? [findInterruptedObstacle(survey), findHubChoiceObstacle(survey), findSecretObstacle(survey)]
      : findAllObstacles(survey, options);
  return findings.filter((finding) => finding !== undefined);
}

function findAllObstacles(survey: Survey, options: ObstacleOptions): Finding[] {
  const [hub, ...others] = survey.hubs;
  const only = others.length === 0 ? hub : undefined;
  return [
    findInterruptedObstacle(survey),
    ...(only === undefined ? [findHubChoiceObstacle(survey)] : findHubObstacles(only, survey)),
    findOwnerObstacle(survey),
    // Without a hub, the file that it reads is not known.
    only && findServerObstacle(survey),
    findDatabaseObstacle(survey, only),
    findPackageObstacle(survey, options),
    findBlacklistObstacle(survey),
    findSecretObstacle(survey) ?? findKeysObstacle(survey),
    findBootObstacle(survey, options),
    findRecoveryKeyObstacle(survey, options),
    findDirectoriesObstacle(survey),
    survey.spaceProblem && {
      id: "room",
      kind: "io",
      problem: survey.spaceProblem.message,
      fix: survey.spaceProblem.hint ?? "Free some space.",
    },
  ];
}

const ignoresPassword = "its SQLite plugin ignores a password and writes plain text";

function refused(id: string, problem: string, fix: string): Obstacle {
  return { id, kind: "refused", problem, fix };
}

/** A setup in progress may have an interrupted operation, which the next setup finishes. */
function findInterruptedObstacle({ operation, record }: Survey): Finding {
  if (record?.phase === "undoing") {
    const fix = "Finish it first: hivemind-sqlcipher setup --undo";
    return refused("undo", "an undo of the setup was interrupted", fix);
  }
  if (operation === undefined || record !== undefined) return undefined;
  return refused(
    "operation",
    `${operation} of this store is in progress or was interrupted`,
    "Let it end, or finish or undo it: hivemind-sqlcipher list-clients",
  );
}

function findHubChoiceObstacle(survey: Survey): Obstacle {
  const { hubs, otherHub, container, server, wantedUnit } = survey;
  if (hubs.length > 0) {
    return refused(
      "two-hubs",
      `several units start a hub: ${hubs.map(({ name }) => name).join(", ")}`,
      `Name the unit: ${hubs.map(serviceOptions).join(", or ")}.`,
    );
  }
  if (container !== undefined && [undefined, container.name].includes(wantedUnit)) {
    return refused(
      "container",
      `the hub runs in the container ${container.name} (${container.engine})${container.problem === undefined ? "" : `: ${container.problem}`}`,
      containerSteps(container, survey.directories),
    );
  }
  if (wantedUnit !== undefined) {
    return {
      id: "no-hub",
      kind: "notFound",
      problem: `there is no unit or container ${wantedUnit}`,
      fix: "List the units: systemctl --user list-units --type=service, and without --user.",
    };
  }
  return {
    id: "no-hub",
    kind: "notFound",
    problem: otherHub?.message ?? `no unit starts hivemind-core listen with ${server.path}`,
    fix:
      otherHub?.hint ??
      "Run this as the user of the hub, and name its unit with --unit NAME; for a hub without a unit see docs/guide/first-deployment.md.",
  };
}

function findHubObstacles(hub: HubSurvey, survey: Survey): Finding[] {
  if (hub.state === "masked") return [findStateObstacle(hub, survey)];
  const user = findUserObstacle(hub, survey);
  return [
    user,
    findStateObstacle(hub, survey),
    hub.startsByRun ? undefined : findOtherDropInObstacle(hub, survey),
    hub.startsByRun || user !== undefined ? undefined : findDropInPathObstacle(hub, survey),
  ];
}

function findStateObstacle(hub: HubSurvey, { hubContainer }: Survey): Finding {
  const { name, state, isDropInOutdated } = hub;
  if (isDropInOutdated && state !== "running" && state !== "masked") {
    return refused(
      "drop-in",
      `${hub.dropIn} starts another hub than ${name} itself, and it does not run`,
      "See the command that renews the drop-in: hivemind-sqlcipher doctor",
    );
  }
  switch (state) {
    case "running":
      return undefined;
    case "masked": {
      const unmask = isUnit(hub) ? systemctlLine(hub.manager, `unmask ${name}`) : "";
      const fix = `Unmask and start it: ${unmask} && ${serviceLine(hub, "start")}`;
      return refused("masked", `${name} is masked and cannot be started`, fix);
    }
    case "paused": {
      const problem = `the container ${isUnit(hub) ? "of " : ""}${name} is paused`;
      const engine = isUnit(hub) ? "podman" : hub.manager;
      return refused("paused", problem, `Unpause it: ${engine} unpause ${hubContainer?.name}`);
    }
    case "restarting":
      return refused(
        "crash-loop",
        `${name} ends again and again`,
        `Remove the cause first: ${logLine(hub)}`,
      );
    case "failed":
      return refused("failed", `${name} has failed`, `Remove the cause first: ${logLine(hub)}`);
    case "stopped":
      return refused(
        "stopped",
        `${name} does not run, so setup could not check that it still works afterwards`,
        `Start it first: ${serviceLine(hub, "start")}`,
      );
  }
}

function findOtherDropInObstacle(hub: HubSurvey, { hubContainer }: Survey): Finding {
  if (hub.otherDropIn === undefined) return undefined;
  if (!isUnit(hub)) {
    return refused(
      "drop-in",
      `${hub.otherDropIn} exists already`,
      `Move it away, or add the lines for your compose file: hivemind-sqlcipher run --print-unit compose --container ${hub.name}`,
    );
  }
  const move = `Move it away (${systemctlLine(hub.manager, "daemon-reload")})`;
  return refused(
    "drop-in",
    `${hub.otherDropIn} sets the command of ${hub.name}`,
    hubContainer
      ? `${move}.`
      : `${move}, or put the run command into it: hivemind-sqlcipher run --print-unit dropin --unit ${hub.name}`,
  );
}

function findDropInPathObstacle(hub: HubSurvey, { hubContainer }: Survey): Finding {
  const { name, dropIn, isDropInWritable } = hub;
  if (isDropInWritable) return undefined;
  const kind = isUnit(hub) ? "quadlet" : "compose";
  const print = hubContainer ? `${kind} --container ${hubContainer.name}` : `dropin --unit ${name}`;
  return refused(
    "drop-in-directory",
    `${dropIn} cannot be written by this user`,
    `Make it writable, or write it as root: hivemind-sqlcipher run --print-unit ${print}`,
  );
}

/**
 * Setup restarts the unit, and uses the passphrase and the files of the hub's user. An ordinary
 * user cannot restart a system unit. Root can, but has another keyring than that user.
 */
function findUserObstacle(hub: HubSurvey, survey: Survey): Finding {
  const { name, otherUser, systemUser, startsByRun } = hub;
  if (systemUser !== undefined && (otherUser !== undefined || !startsByRun)) {
    if (isSealedUnit(survey, hub) && otherUser === undefined) return undefined;
    return refused(
      "user",
      `${name} is a system unit with User=${systemUser}`,
      survey.isRoot
        ? "Leave out --passphrase-source: setup seals the passphrase, and systemd unseals it for the unit."
        : "Run setup as root, which seals the passphrase for the unit: sudo hivemind-sqlcipher setup",
    );
  }
  if (otherUser === undefined) return undefined;
  return refused(
    "user",
    `${name} runs as user ${otherUser}`,
    otherUser === "root"
      ? "Run setup as root: sudo hivemind-sqlcipher setup"
      : `Run setup as user ${otherUser}, whose keyring and files the hub uses.`,
  );
}

function findOwnerObstacle({ ownerProblem }: Survey): Finding {
  if (ownerProblem === undefined) return undefined;
  const fix = "Give it to the hub's user with chown, or let the unit run as its owner.";
  return refused("owner", ownerProblem, fix);
}

function findServerObstacle(survey: Survey): Finding {
  const { server, isHandedOver } = survey;
  if (server.problem !== undefined) {
    return refused("server.json", server.problem.message, server.problem.hint ?? "Correct it.");
  }
  if (server.isIncomplete) {
    return refused(
      "server.json",
      `${server.path} has no "network_protocol", so the hub would complete and rewrite the file`,
      "Let the hub complete it once: hivemind-core print-config",
    );
  }
  const isChanged = !isHandedOver && formerKind(survey) !== "sqlite";
  if (server.isWritable || !isChanged) return undefined;
  return refused(
    "server.json-read-only",
    `${server.path} cannot be changed: it is a mount point, or read-only, as a file that a tool such as Ansible or Nix manages`,
    'Mount its directory instead, or let that tool write it: "database": {"module": "hivemind-sqlite-db-plugin", "hivemind-sqlite-db-plugin": {"subfolder": "hivemind-core", "name": "clients"}}, after hivemind-sqlcipher migrate (docs/guide/existing-hub.md).',
  );
}

function findDatabaseObstacle(survey: Survey, hub: HubSurvey | undefined): Finding {
  const { database, store, storePath, record, hasOwnStore, isHandedOver, hubContainer } = survey;
  if (database === undefined) return undefined;
  if (database.problem !== undefined) {
    return refused("database", database.problem.message, database.problem.hint ?? "Correct it.");
  }
  if (database.kind === "other") {
    return refused(
      "database",
      `the hub uses ${database.module}, which setup does not move`,
      "Move its clients as docs/guide/other-databases.md shows.",
    );
  }
  if (database.kind === "absent") {
    return refused(
      "database",
      `the hub's database ${database.place} does not exist`,
      "Start the hub once, or see docs/guide/first-deployment.md for a new store.",
    );
  }
  if (database.kind === "json" && store !== "absent" && !hasOwnStore) {
    return refused(
      "store",
      `there is a file at ${storePath} already, which the hub does not use`,
      `Move it away: mv ${shellQuote(storePath)} ${shellQuote(`${storePath}.old`)}`,
    );
  }
  if (database.kind === "sqlite" && database.hasPassword) {
    return refused(
      "password",
      "server.json has a password for the store, but the store is not encrypted: the hub's plugin ignores it",
      'Remove "password" from server.json first: a plugin that uses it could not open the store.',
    );
  }
  const isLocked = database.kind === "sqlcipher" && !database.hasPassword && record === undefined;
  if (isLocked && !(isHandedOver && hub?.startsByRun)) {
    if (hubContainer !== undefined) {
      return findLockedContainerObstacle(survey, hubContainer, hub);
    }
    return refused(
      "password",
      `${storePath} is encrypted, and server.json has no password for it`,
      "Start the hub through run: hivemind-sqlcipher run --print-unit dropin",
    );
  }
  return undefined;
}

/** Setup reads no secret of an engine, so the user must move a password in one. */
function findLockedContainerObstacle(
  { storePath, source, isRoot, directories }: Survey,
  { name, secrets }: HubContainerSurvey,
  hub: HubSurvey | undefined,
): Obstacle {
  const own = programLineFor(storePath, isRoot ? formatSource(source) : undefined);
  const adopt = `${own} init --adopt --hub none --passphrase-file FILE --bundle-to ${shellQuote(directories.bundles)}`;
  const isComposed = hub !== undefined && !isUnit(hub);
  const [where, again, kind, engine] = isComposed
    ? ["compose file", "create the container again", "compose", hub.manager]
    : ["quadlet", "restart its unit", "quadlet", "podman"];
  const mount = `add to the ${where} what this prints, and ${again}: ${own} run --print-unit ${kind}`;
  if (secrets.length === 0) {
    return refused(
      "password",
      `${storePath} is encrypted, and server.json has no password for it`,
      `Take its password over: ${adopt}\nThen ${mount} --container ${name}`,
    );
  }
  return refused(
    "secret",
    `the container ${name} gets the password from secrets of ${engine} (${secrets.join(", ")}), which are on the disk unencrypted`,
    `Take the password over: ${adopt}\nRemove the secret from the ${where}, ${mount} --container ${name}\nRemove the secret, and change the password: ${engine} secret rm ${secrets[0]} && ${own} rotate`,
  );
}

function findPackageObstacle(
  { packages, hubs, hubContainer }: Survey,
  { installHubPackages }: ObstacleOptions,
): Finding {
  if (hubContainer !== undefined) return findImageObstacle(packages, hubs[0], hubContainer);
  if (packages === undefined) {
    if (hubs.length !== 1 || hubs[0]?.state === "masked") return undefined;
    return {
      id: "python",
      kind: "notFound",
      problem: "the Python of the hub was not found",
      fix: "Name it: --hub-python PATH",
    };
  }
  if (packages.canEncrypt) return undefined;
  const pip = pipLine(packages.python);
  if (!installHubPackages) {
    return refused(
      "packages",
      `the hub in ${packages.python} cannot open an encrypted store: ${packages.problem ?? ignoresPassword}`,
      `Add --install-hub-packages, run setup on a terminal without --yes, or install them: ${pip}`,
    );
  }
  if (packages.isWritable) return undefined;
  return {
    id: "packages-directory",
    kind: "io",
    problem: `the hub's packages in ${packages.directory ?? packages.python} cannot be written by the hub's user`,
    fix: `Let the owner of that directory install them: ${pip}`,
  };
}

/** Setup cannot install packages into a container, because they belong to its image. */
function findImageObstacle(
  packages: PackagesSurvey | undefined,
  hub: HubSurvey | undefined,
  { name, packageList }: HubContainerSurvey,
): Finding {
  if (packages?.canEncrypt || hub === undefined || hub.state === "paused") return undefined;
  const why =
    packages === undefined
      ? "its Python was not found, or it does not run"
      : (packages.problem ?? ignoresPassword);
  return refused(
    "packages",
    `the hub in the container ${name} cannot open an encrypted store: ${why}`,
    packageList === undefined
      ? `Use an image with these packages, or mount .config/hivemind: images of HiveMind install what is in its hivemind.list:\n${packageListLine("hivemind.list")}`
      : `Let the image install them when it starts:\n${packageListLine(packageList)}\n${serviceLine(hub, "restart")}`,
  );
}

/**
 * The clients of a plain SQLite store are not known yet, because opening it may create files next
 * to it. Setup reads them before it installs packages.
 */
function findBlacklistObstacle(survey: Survey): Finding {
  const { packages, database, isHandedOver, hubContainer } = survey;
  if (packages === undefined || !database?.hasBlacklists || isHandedOver) return undefined;
  const found = findHiveMind4Obstacle(packages);
  if (found === undefined || hubContainer === undefined) return found;
  return { ...found, fix: "Use an image with HiveMind 5 first." };
}

/**
 * Returns the obstacle for clients with blacklists; undefined if the hub would enforce them.
 * HiveMind 4 enforces no blacklist in a store after the encrypting plugin has opened it. With that
 * plugin installed, the hub also opens a plain store with it.
 */
export function findHiveMind4Obstacle(packages: PackagesSurvey): Obstacle | undefined {
  if (!isHiveMind4(packages)) return undefined;
  const { python, schemaVersion } = packages;
  const is = schemaVersion === undefined ? "may be" : "is";
  return refused(
    "blacklists",
    `the hub in ${python} ${is} HiveMind 4, which would not enforce the blacklists of its clients in an encrypted store`,
    `Upgrade the hub to HiveMind 5 first: ${upgradeLine(python)}`,
  );
}

function findSecretObstacle({ source }: Survey): Finding {
  if (!isEngineSecret(source)) return undefined;
  const { message, hint = "" } = engineSecretError();
  return refused("secret", message, hint);
}

function findKeysObstacle({ keysProblem, source, hubContainer, hubs }: Survey): Finding {
  if (source.kind === "keyring" && hubContainer !== undefined && hubs[0]?.manager === "systemd") {
    return refused(
      "keys",
      "the unit of a container of root's Podman has no keyring",
      "Leave out --passphrase-source: setup seals the passphrase, and run unseals it for the container.",
    );
  }
  if (keysProblem === undefined) return undefined;
  const other = "Or keep the passphrase in a file: --passphrase-source file:PATH";
  return {
    id: "keys",
    kind: "passphraseUnavailable",
    problem: keysProblem.message,
    fix: [keysProblem.hint, source.kind === "keyring" ? other : undefined]
      .filter(Boolean)
      .join("\n"),
  };
}

/** Names the commands that only root can run. */
function findBootObstacle({ boot }: Survey, { isHeadless }: ObstacleOptions): Finding {
  if (boot === undefined || !isHeadless) return undefined;
  return refused(
    "boot",
    `after a reboot without a login the hub would wait for its passphrase: ${boot.problem}`,
    ["Run these commands once, then setup again:", ...boot.fixes].join("\n"),
  );
}

function findRecoveryKeyObstacle(survey: Survey, options: ObstacleOptions): Finding {
  const { recoveryKeyFile, isRecoveryKeyFileTaken } = options;
  if (recoveryKeyFile === undefined || !isRecoveryKeyFileTaken || !needsKeys(survey)) {
    return undefined;
  }
  return refused(
    "recovery-key-file",
    `the recovery key file ${recoveryKeyFile} exists already`,
    "Move it away, or name another file with --recovery-key-file PATH.",
  );
}

function findDirectoriesObstacle({ directories: { problem } }: Survey): Finding {
  const fix = problem?.hint ?? "Name others with --to and --bundle-to.";
  return problem && refused("directories", problem.message, fix);
}
