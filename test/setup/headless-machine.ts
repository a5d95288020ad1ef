/** A machine without a desktop, in a session with a system manager of its own. */
import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { root } from "../built.js";
import { hubScript, opening } from "../hub/support.js";
import { temporaryFolder } from "../store/temporary.js";

const exec = promisify(execFile);
const tools = `${root}test/setup`;

const debian13 = `${tools}/debian-13.sh`;

/** A machine with a disk; each boot runs a script as root, and ends with it. */
export class HeadlessMachine {
  readonly #home: string;
  readonly #hub: string;
  /** The command before the session, which leads it into another system. */
  readonly #system: readonly string[];

  private constructor(home: string, hub: string, system: readonly string[] = []) {
    this.#home = home;
    this.#hub = hub;
    this.#system = system;
  }

  static async make(line: "development" | "released" = "development"): Promise<HeadlessMachine> {
    return new HeadlessMachine(await HeadlessMachine.#makeHome(), await hubScript(line));
  }

  /** A machine with Debian 13, whose systemd seals for ordinary users, too. */
  static async makeDebian13(): Promise<HeadlessMachine> {
    await hubScript("development");
    await exec(debian13, ["prepare"]);
    const home = await HeadlessMachine.#makeHome();
    const shared = [home, root, dirname(dirname(process.execPath))];
    const run = [debian13, "run", ...shared.flatMap((directory) => ["--share", directory])];
    return new HeadlessMachine(home, "/opt/hub/bin/hivemind-core", run);
  }

  static async #makeHome(): Promise<string> {
    const home = join(await temporaryFolder(), "home");
    await mkdir(join(home, "bin"), { recursive: true });
    const program = `#!/bin/sh\nexec ${process.execPath} ${root}dist/cli/main.js "$@"\n`;
    await writeFile(join(home, "bin", "hivemind-sqlcipher"), program, { mode: 0o755 });
    return home;
  }

  async boot(script: string): Promise<string[]> {
    const lines = [
      "set -euo pipefail",
      "ulimit -c 0",
      // In Debian 13, no directory above the shared ones is closed.
      this.#system.length === 0 ? await opening(this.#hub) : "",
      `export TOOLS=${tools} HUB_ENVIRONMENT=${dirname(dirname(this.#hub))}`,
      'export PATH="$HOME/bin:$PATH"',
      `. ${tools}/headless.sh`,
      "attach_disk",
      // As with sudo.
      "unset XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS",
      script,
    ];
    const file = join(this.#home, "script.log");
    await writeFile(file, lines.join("\n"));
    const session = [join(root, "scripts/private-session"), "--system", this.#home];
    const [program = "", ...args] = [...this.#system, ...session, "bash", file];
    try {
      const { stdout } = await exec(program, args);
      return stdout.trim().split("\n");
    } catch (error) {
      const { stdout, stderr } = error as { stdout: string; stderr: string };
      throw new Error(`${stdout}\n${stderr}`);
    }
  }
}
