/**
 * A hub in a container: setup cannot create a container again, so it names the steps instead. They
 * depend on what the hub's database is now.
 */
import { unresolvedStorePath } from "../config/paths.js";
import { isKind } from "../errors.js";
import { findHubContainers, readContainerHub, toHost } from "../hub/container-hub.js";
import { copyPath } from "../hub/password-delivery.js";
import { databaseIn, namedStore, readServerJson, sqliteModule } from "../hub/server-json.js";
import { type ContainerName, mountsStore } from "../service/engine.js";
import { identify } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import type { Directories } from "./directories.js";

export interface ContainerSurvey extends ContainerName {
  readonly database: "sqlite" | "sqlcipher" | "other";
  /** The path of the store on this machine; undefined if it is on no volume. */
  readonly store: string | undefined;
  readonly hasPassword: boolean;
  readonly hasCopy: boolean;
}

/** Returns the container of the hub: the one that mounts the store, or the only one of a hub. */
export async function surveyContainer(path: string): Promise<ContainerSurvey | undefined> {
  const hubs = await findHubContainers();
  const own = hubs.find((each) => mountsStore(each, path));
  const container = own ?? (hubs.length === 1 ? hubs[0] : undefined);
  if (container === undefined) return undefined;
  const { engine, name } = container;
  const { serverJson, dataHome, copy } = await readContainerHub(container);
  const unknown = { engine, name, hasCopy: copy !== undefined } as const;
  const other = { ...unknown, database: "other", store: undefined, hasPassword: false } as const;
  if (serverJson === undefined) return other;
  try {
    const file = await readServerJson(serverJson);
    if (databaseIn(file).module !== sqliteModule) return other;
    const locate = (inside: string) => toHost(container, inside);
    const named = await namedStore(file, { XDG_DATA_HOME: dataHome }, locate);
    const { storePath: store, passwordSet: hasPassword } = named;
    const isEncrypted = store !== undefined && (await identify(store)).format === "sqlcipher";
    return { ...unknown, database: isEncrypted ? "sqlcipher" : "sqlite", store, hasPassword };
  } catch (error) {
    if (!isKind(error, "notFound", "io", "refused")) throw error;
    return other;
  }
}

/** Returns the steps that encrypt the store of a container, one on a line. */
export function containerSteps(
  { engine, name, database, store, hasPassword, hasCopy }: ContainerSurvey,
  { backups, bundles }: Directories,
): string {
  const guide = "docs/guide/containers.md explains the steps.";
  if (database === "other") {
    return `Let the hub use a SQLite store first (docs/guide/other-databases.md), on a volume. ${guide}`;
  }
  if (store === undefined) {
    return `Put the store onto a volume first: hivemind-sqlcipher doctor names the commands. ${guide}`;
  }
  const own = `hivemind-sqlcipher${store === unresolvedStorePath({}) ? "" : ` --db ${shellQuote(store)}`}`;
  const service = `--service ${engine} --unit ${name}`;
  const bundleTo = `--bundle-to ${shellQuote(bundles)}`;
  const adopt = `${own} init --adopt ${service} ${bundleTo}`;
  const mount = [
    `${own} run --prepare ${shellQuote(copyPath())} --container ${name}`,
    `${own} run --print-unit compose --container ${name}`,
    "Enable the unit that this prints, and create the container again with the lines for its compose file.",
  ];
  return [
    `Setup does not create a container again. ${guide} They are:`,
    `mkdir -p -m 700 ${shellQuote(backups)} ${shellQuote(bundles)}`,
    ...(database === "sqlcipher" && hasPassword ? [adopt] : []),
    ...(hasCopy ? [] : mount),
    ...(database === "sqlite" ? [`${own} encrypt ${service} ${bundleTo}`] : []),
    ...(database === "sqlcipher" && hasPassword
      ? [`${adopt} --remove-password`, `${own} rotate ${service} ${bundleTo}`]
      : []),
    `${own} backup ${service} --to ${shellQuote(backups)} ${bundleTo}`,
    `${own} schedule install`,
  ].join("\n");
}
