/** Parses the output of `systemctl show`. */

export type Properties = Readonly<Record<string, string>>;

/** A command of a unit, as in ExecStart. */
export interface UnitCommand {
  /** The name of the property. */
  readonly property: string;
  readonly path: string;
  /** The arguments with specifiers replaced, before the expansion of variables. */
  readonly args: readonly string[];
  /** Flags such as `ignore-failure`, which unit files write as prefixes. */
  readonly flags: readonly string[];
}

/**
 * Matches a property with commands (ExecStart and similar). systemd prints their arguments
 * unescaped, including line breaks.
 */
const command = /^(Exec\w+)=(\{ path=[\s\S]*? ; status=\S+ \})$/gm;

/** Properties printed with a line for each value, which may contain spaces. */
const repeated = new Set(["EnvironmentFiles", "TimersCalendar"]);

/**
 * Parses the properties of units, separated by empty lines. {@link parseCommands} parses the values
 * of properties with commands.
 */
export function parseProperties(text: string): Properties[] {
  return text
    .replace(command, (_, name, value) => `${name}=${Buffer.from(value).toString("base64")}`)
    .trimEnd()
    .split("\n\n")
    .map((block) => {
      const properties: Record<string, string> = {};
      for (const line of block.split("\n")) {
        const [name = "", ...rest] = line.split("=");
        const value = rest.join("=");
        const former = properties[name];
        // A property with several commands or files has a line for each.
        const separator = name.startsWith("Exec") ? " " : repeated.has(name) ? "\n" : undefined;
        properties[name] =
          former !== undefined && separator !== undefined ? former + separator + value : value;
      }
      return properties;
    });
}

/**
 * Parses the commands of a property. Splits arguments at blanks, because systemd prints them
 * without quotes.
 */
export function parseCommands(property: string, value = ""): UnitCommand[] {
  return value
    .split(" ")
    .map((text) => Buffer.from(text, "base64").toString())
    .flatMap((text) => {
      const [, path, args] =
        /^\{ path=(.*?) ; argv\[\]=([\s\S]*?) ; ignore_errors=/.exec(text) ?? [];
      if (path === undefined || args === undefined) return [];
      return [{ property, path, args: args.split(" "), flags: [] }];
    });
}

/** Parses a list of strings. systemd quotes strings with blanks. */
export function parseList(text = ""): string[] {
  const items = text.matchAll(/"((?:[^"\\]|\\.)*)"|((?:[^\s"\\]|\\.)+)/g);
  return [...items].map(([, quoted, plain = ""]) => (quoted ?? plain).replace(/\\(.)/g, "$1"));
}

/** The limit in place of `infinity`: 5 minutes. */
const unlimitedMs = 300_000;

/** Milliseconds in each unit of systemd.time(7), as in "1min 30s". */
const timeUnits: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
  month: 2_629_800_000,
  y: 31_557_600_000,
};

/** Parses a time limit into milliseconds. Returns at most 5 minutes, also for `infinity`. */
export function parseLimitMs(text?: string): number {
  return Math.min(parseTimespanMs(text), unlimitedMs);
}

/** Parses a time span into milliseconds. An unknown unit counts as 5 minutes. */
export function parseTimespanMs(text = "0"): number {
  if (text === "infinity") return Number.POSITIVE_INFINITY;
  const parts = [...text.matchAll(/(?<![\d.])(\d+(?:\.\d+)?) ?([a-z]+)/g)];
  return parts
    .map(([, count, unit = ""]) => Number(count) * (timeUnits[unit] ?? unlimitedMs))
    .reduce((total, span) => total + span, 0);
}
