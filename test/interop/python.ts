/** The Python programs that this project works beside, in virtual environments of their own. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const prepare = fileURLToPath(new URL("../../scripts/python-peers", import.meta.url));

/** `released` is what hubs run today; `development` knows schema 2 and encryption. */
export type Line = "released" | "development";

/** What open_backup.py needs, and the validator of bills of materials. */
type Tool = "reader" | "cyclonedx";

let folders: Record<Line | Tool | "sources", string> | undefined;

/** What scripts/python-peers makes; the first time takes a minute. */
function peers() {
  if (folders === undefined) {
    const made = execFileSync(prepare, { encoding: "utf8" }).split("\n");
    const [released = "", development = "", reader = "", cyclonedx = "", sources = ""] = made;
    folders = { released, development, reader, cyclonedx, sources };
  }
  return folders;
}

/** The interpreter of a line or a tool. */
export function interpreter(line: Line | Tool): string {
  return `${peers()[line]}/bin/python`;
}

/** Where the sources of upstream's packages are, each with its own tests; and pytest. */
export function sources(): string {
  return peers().sources;
}

/**
 * Runs a script that finds `argument` as `given`, and answers what it assigns to `answer`, both by way of JSON.
 *
 * @param home the script's XDG_DATA_HOME and XDG_CONFIG_HOME.
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
