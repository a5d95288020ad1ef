/** Reads the commands of a unit. */
import { readFile } from "node:fs/promises";
import { run } from "../process/run.js";
import { parseCommands, parseList, type UnitCommand } from "./properties.js";
import { fullUnitName, queryLimitMs, show, type UnitName } from "./systemctl.js";

const properties = ["ExecStartPre", "ExecStart"] as const;

/**
 * Returns the commands that start a unit; none if the unit does not exist.
 *
 * `busctl` reads them, because `systemctl` prints arguments without quotes. Without a bus, as on a
 * minimal system, arguments are split at blanks.
 *
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function readCommands({ manager, name }: UnitName): Promise<UnitCommand[]> {
  const outcome = await run(
    "busctl",
    [
      manager === "systemd-user" ? "--user" : "--system",
      "--json=short",
      "--no-pager",
      "get-property",
      "org.freedesktop.systemd1",
      objectPath(name),
      "org.freedesktop.systemd1.Service",
      ...properties.map((property) => `${property}Ex`),
    ],
    { timeoutMs: queryLimitMs },
  );
  if (outcome.code === 0) return parseJson(outcome.stdout);
  const [unit = {}] = await show(manager, properties, [name]);
  return properties.flatMap((property) => parseCommands(property, unit[property]));
}

/** Parses a line of JSON for each property: a list of path, arguments, flags and times. */
function parseJson(text: string): UnitCommand[] {
  return text
    .trim()
    .split("\n")
    .flatMap((line, index) => {
      const { data } = JSON.parse(line) as { data: [string, string[], string[]][] };
      const property = properties[index] ?? "ExecStart";
      return data.map(([path, args, flags]) => ({ property, path, args, flags }));
    });
}

/** Returns the D-Bus object path of a unit. Most characters are escaped as `_xx`. */
function objectPath(name: string): string {
  const escaped = [...Buffer.from(fullUnitName(name))].map((byte, index) => {
    const character = String.fromCharCode(byte);
    const isPlain = (index === 0 ? /[A-Za-z]/ : /[A-Za-z0-9]/).test(character);
    return isPlain ? character : `_${byte.toString(16).padStart(2, "0")}`;
  });
  return `/org/freedesktop/systemd1/unit/${escaped.join("")}`;
}

/** A setting `ExecStart=` or `ExecStartPre=` in a file of a unit. */
export interface CommandLine {
  readonly file: string;
  readonly key: string;
  /** As in the file. Empty to clear the earlier commands. */
  readonly value: string;
}

/**
 * Returns the commands in the files of a unit, in the order in which systemd reads them, without
 * those of the drop-in `without`. Skips unreadable files.
 *
 * @param file - replaces the unit's own file
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function readCommandLines(
  { manager, name }: UnitName,
  { without, file }: { without: string; file?: string | undefined },
): Promise<CommandLine[]> {
  const [unit = {}] = await show(manager, ["FragmentPath", "DropInPaths"], [name]);
  const lines: CommandLine[] = [];
  for (const path of [file ?? unit.FragmentPath ?? "", ...parseList(unit.DropInPaths)]) {
    if (path === "" || path === without) continue;
    const text = (await readFile(path, "utf8").catch(() => "")).replaceAll("\\\n", " ");
    for (const [, key = "", value = ""] of text.matchAll(
      /^[ \t]*(ExecStart(?:Pre)?)[ \t]*=(.*)$/gm,
    )) {
      lines.push({ file: path, key, value: value.trim() });
    }
  }
  return lines;
}
