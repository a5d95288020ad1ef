import { StoreError } from "../../errors.js";

/** Returns a duration in the largest unit with a value of at least two: "3d", "119min". */
export function formatAge(seconds: number): string {
  const units = [
    ["d", 86_400],
    ["h", 3600],
    ["min", 60],
  ] as const;
  for (const [unit, length] of units) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)}${unit}`;
  }
  return `${Math.max(0, seconds)}s`;
}

/** Parses an age, such as "36h" or "8d", and returns seconds. */
export function parseAge(text: string, option: string): number {
  const [, digits, unit = ""] = /^(\d{1,6})(min|h|d)$/.exec(text) ?? [];
  const seconds = Number(digits) * ({ min: 60, h: 3600, d: 86_400 }[unit] ?? 0);
  if (seconds > 0) return seconds;
  throw new StoreError("usage", `${option}: "${text}" is not an age`, {
    hint: "Write it as 90min, 36h or 8d.",
  });
}

/** Returns bytes in powers of 1024, as `ls -h` prints them: "1.4M". */
export function formatSize(bytes: number): string {
  const units = ["B", "K", "M", "G", "T"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)}${units[unit]}`;
}

/** Parses a size in powers of 1024, such as "100M". */
export function parseSize(text: string, option: string): number {
  const [, digits, unit = ""] = /^(\d{1,12})([KMG]?)$/i.exec(text) ?? [];
  const size = Number(digits) * 1024 ** ["", "K", "M", "G"].indexOf(unit.toUpperCase());
  if (size > 0 && Number.isSafeInteger(size)) return size;
  throw new StoreError("usage", `${option}: "${text}" is not a size`, {
    hint: "Write it as 100M, 2G or a number of bytes.",
  });
}
