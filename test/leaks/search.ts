/**
 * Searches for secrets in everything that a command and its children execute, write and leave. Runs
 * under strace with whole strings, and searches for each likely encoding of a secret.
 */
import { readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

export interface Secret {
  /** The secret's name in a report, never the secret itself. */
  readonly name: string;
  readonly bytes: Buffer;
}

export interface Hit {
  readonly secret: string;
  readonly encoding: string;
  /** "argument", "environment", "write to PATH", "file PATH", "stdout", … */
  readonly where: string;
}

/** The search patterns: every secret in every encoding. */
export type Needles = readonly {
  readonly secret: string;
  readonly encoding: string;
  readonly bytes: Buffer;
}[];

/** Returns a secret that is text. */
export function text(name: string, value: string): Secret {
  return { name, bytes: Buffer.from(value) };
}

export function needlesOf(secrets: readonly Secret[]): Needles {
  const needles = new Map<string, Needles[number]>();
  for (const { name, bytes } of secrets) {
    for (const [encoding, encoded] of Object.entries(encodingsOf(bytes))) {
      const known = needles.has(encoded.toString("latin1"));
      if (!known)
        needles.set(encoded.toString("latin1"), { secret: name, encoding, bytes: encoded });
    }
  }
  return [...needles.values()];
}

function encodingsOf(bytes: Buffer): Record<string, Buffer> {
  const found: Record<string, Buffer> = { raw: bytes };
  const add = (name: string, value: string, encoding: BufferEncoding = "utf8") => {
    found[name] = Buffer.from(value, encoding);
  };
  add("hex", bytes.toString("hex"));
  add("HEX", bytes.toString("hex").toUpperCase());
  for (const offset of [0, 1, 2]) {
    // As a part of a longer text: only the digits made of its own bits.
    const shifted = Buffer.concat([Buffer.alloc(offset), bytes]).toString("base64");
    const own = shifted.slice(
      offset === 0 ? 0 : offset + 1,
      Math.floor((shifted.replace(/=+$/, "").length * 6) / 8 / 3) * 4,
    );
    add(`base64+${offset}`, own);
    add(`base64url+${offset}`, own.replaceAll("+", "-").replaceAll("/", "_"));
  }
  const value = bytes.toString("utf8");
  if (!Buffer.from(value).equals(bytes)) return found;
  add("UTF-16LE", value, "utf16le");
  found["UTF-16BE"] = Buffer.from(value, "utf16le").swap16();
  add("Latin 1", value, "latin1");
  add("JSON", JSON.stringify(value).slice(1, -1));
  add(
    "JSON in ASCII",
    JSON.stringify(value)
      .slice(1, -1)
      .replace(/[^ -~]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`),
  );
  add("URL", encodeURIComponent(value));
  add("SQL", value.replaceAll("'", "''"));
  add("shell", value.replaceAll("'", "'\\''"));
  add("lower case", value.toLowerCase());
  add("without dashes", value.replaceAll("-", ""));
  add("without dashes, lower case", value.replaceAll("-", "").toLowerCase());
  return found;
}

/** Returns the patterns found in these bytes. */
export function hitsIn(bytes: Buffer, where: string, needles: Needles): Hit[] {
  return needles
    .filter((needle) => bytes.includes(needle.bytes))
    .map(({ secret, encoding }) => ({ secret, encoding, where }));
}

/** Returns the patterns found in every file below a directory, except the named files. */
export function hitsInFiles(folder: string, needles: Needles, except: readonly string[]): Hit[] {
  const hits: Hit[] = [];
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (!entry.isFile() || except.includes(path)) continue;
    hits.push(...hitsIn(readFileSync(path), `file ${path}`, needles));
  }
  return hits;
}

/** The system calls that pass bytes to a program, a file, a pipe or a socket. */
const calls = [
  ...["execve", "execveat", "write", "writev", "pwrite64", "pwritev", "pwritev2"],
  ...["sendto", "sendmsg", "sendmmsg", "vmsplice", "add_key", "setxattr", "fsetxattr"],
  ...[
    "symlink",
    "symlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
  ],
];

/**
 * Returns the arguments before a command that write its trace to `log`, with whole strings in
 * hexadecimal digits.
 */
export const strace = (log: string) => [
  ...["strace", "-f", "--seccomp-bpf", "-s", "1048576", "-v", "-xx", "-yy", "-o", log],
  ...["-e", `trace=${calls.join(",")}`, "-e", "signal=none"],
];

/** Waits until a trace is complete: strace writes the last line when the last process has ended. */
async function wholeTrace(log: string): Promise<string> {
  for (let looks = 0; looks < 100; looks++) {
    const trace = await readFile(log, "latin1");
    if (/\+\+\+ (exited with|killed by) .*\+\+\+\n$/.test(trace)) return trace;
    await delay(50);
  }
  throw new Error(`${log} does not end`);
}

export interface Traced {
  /**
   * The bytes written to each destination, joined in the order of the calls: a secret may be
   * written in pieces.
   */
  readonly places: ReadonlyMap<string, Buffer>;
  readonly calls: number;
}

export async function readTrace(log: string): Promise<Traced> {
  const pieces = new Map<string, Buffer[]>();
  const add = (where: string, bytes: Buffer) => {
    const list = pieces.get(where);
    if (list) list.push(bytes);
    else pieces.set(where, [bytes]);
  };
  let count = 0;
  for (const line of (await wholeTrace(log)).split("\n")) {
    const [, call, rest] = /^\d+ +(\w+)\((.*)$/.exec(line) ?? [];
    if (call === undefined || rest === undefined) continue;
    count += 1;
    if (call === "execve" || call === "execveat") {
      const environment = rest.lastIndexOf("], [");
      add("argument", strings(rest.slice(0, environment), "\0"));
      add("environment", strings(rest.slice(environment), "\0"));
    } else if (/^(?:p?write|send|vmsplice|f?setxattr|add_key)/.test(call)) {
      const target = /^\d+<(.*?)>, /.exec(rest)?.[1] ?? rest.slice(0, 20);
      const body = rest.slice(rest.indexOf(">, "));
      add(`write to ${unescaped(target)}`, strings(body, ""));
    } else {
      add("name", strings(rest, "\0"));
    }
  }
  return {
    places: new Map([...pieces].map(([where, list]) => [where, Buffer.concat(list)])),
    calls: count,
  };
}

export function hitsInTrace(traced: Traced, needles: Needles): Hit[] {
  return [...traced.places].flatMap(([where, bytes]) => hitsIn(bytes, where, needles));
}

/** Returns all quoted strings of a call as bytes. */
function strings(rest: string, separator: string): Buffer {
  const found: Buffer[] = [];
  for (const [, hex] of rest.matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)) {
    found.push(Buffer.from((hex ?? "").replaceAll("\\x", ""), "hex"), Buffer.from(separator));
  }
  return Buffer.concat(found);
}

function unescaped(path: string): string {
  return path.replace(/(?:\\x[0-9a-f]{2})+/g, (hex) =>
    Buffer.from(hex.replaceAll("\\x", ""), "hex").toString("utf8"),
  );
}
