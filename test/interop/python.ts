/** The Python programs that this project is compatible with, in virtual environments. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const prepare = fileURLToPath(new URL("../../scripts/python-peers", import.meta.url));

/** `released` is HiveMind 4; `development` is HiveMind 5, with schema 2 and encryption. */
export type Line = "released" | "development";

/** The validator of bills of materials, and servers. */
type Tool = "cyclonedx" | "services";

let folders: Record<Line | Tool | "sources", string> | undefined;

/** Returns the output of scripts/python-peers. The first run takes a minute. */
function peers() {
  if (folders === undefined) {
    const made = execFileSync(prepare, { encoding: "utf8" }).split("\n");
    const [released = "", development = "", cyclonedx = "", services = "", sources = ""] = made;
    folders = { released, development, cyclonedx, services, sources };
  }
  return folders;
}

/** Returns the interpreter of a line or a tool. */
export function interpreter(line: Line | Tool): string {
  return `${peers()[line]}/bin/python`;
}

/** Returns the current rclone. Unlike Debian's, it can serve S3. */
export function currentRclone(): string {
  return `${peers().services}/bin/rclone`;
}

/** Returns the directory with the sources and tests of upstream's packages, and with pytest. */
export function sources(): string {
  return peers().sources;
}

/**
 * Runs a script with `argument` as its variable `given`. Returns the value that the script assigns
 * to `answer`. Both are passed as JSON.
 *
 * @param home - the script's XDG_DATA_HOME and XDG_CONFIG_HOME
 */
export function runPython<Answer>(
  line: Line,
  home: string,
  script: string,
  argument: unknown,
): Answer {
  const wrapped = `import json, sys
given = json.load(sys.stdin)
real_stdout, sys.stdout = sys.stdout, sys.stderr
${script}
json.dump(answer, real_stdout)`;
  const output = execFileSync(interpreter(line), ["-c", wrapped], {
    input: JSON.stringify(argument),
    encoding: "utf8",
    env: { PATH: process.env.PATH, HOME: home, XDG_DATA_HOME: home, XDG_CONFIG_HOME: home },
    stdio: ["pipe", "pipe", "pipe"],
    maxBuffer: 1 << 28,
  });
  return JSON.parse(output) as Answer;
}
