/** What `systemctl show` prints: a unit's properties, and times as systemd writes them. */

export type Properties = Readonly<Record<string, string>>;

/**
 * A command of a unit (ExecStop and its like): its arguments are printed as they are, with line breaks and empty lines
 * in them.
 */
const command = /^(Exec\w+)=\{ path=[\s\S]*? ; status=\S+ \}$/gm;

/**
 * The properties of units: one block a unit, in the order asked for, with an empty line between. Of a command it is told
 * only that there is one.
 */
export function parseProperties(text: string): Properties[] {
  return text
    .replace(command, "$1=yes")
    .trimEnd()
    .split("\n\n")
    .map((block) =>
      Object.fromEntries(
        block.split("\n").map((line) => {
          const [name = "", ...value] = line.split("=");
          return [name, value.join("=")];
        }),
      ),
    );
}

/** What a unit without a time limit of its own (`infinity`) is given to stop or to start: 5 minutes. */
const unlimitedMs = 300_000;

/** Milliseconds to a unit of time as systemd writes it, "1min 30s" (systemd.time(7)). */
const timeUnits: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** Milliseconds in a time span; at most 5 minutes, also for one that has no end or an unknown unit. */
export function timespanMs(text = "0"): number {
  if (text === "infinity") return unlimitedMs;
  const parts = [...text.matchAll(/(?<![\d.])(\d+(?:\.\d+)?) ?([a-z]+)/g)];
  const spans = parts.map(
    ([, count, unit = ""]) => Number(count) * (timeUnits[unit] ?? unlimitedMs),
  );
  return Math.min(
    spans.reduce((total, span) => total + span, 0),
    unlimitedMs,
  );
}
