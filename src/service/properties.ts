/** Parses the output of `systemctl show`. */

export type Properties = Readonly<Record<string, string>>;

/**
 * A property with commands (ExecStop and similar). systemd prints their arguments unescaped, line
 * breaks included.
 */
const command = /^(Exec\w+)=\{ path=[\s\S]*? ; status=\S+ \}$/gm;

/**
 * Parses the properties of units, separated by empty lines. A property with commands gets the
 * value "yes".
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

/** What `infinity` counts as: 5 minutes. */
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
};

/**
 * Parses a time span into milliseconds, at most 5 minutes, also for `infinity` and unknown units.
 */
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
