/**
 * A walk through the commands in a real terminal. What the screen showed is kept in walk.txt, for
 * people to read and for this test to compare; what differs from run to run is replaced by what it
 * is.
 */
import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "./machine.js";

const exec = promisify(execFile);
const columns = 100;

/** A terminal of its own, driven by tmux: a real pty, a real screen. */
class Terminal {
  private constructor(private readonly socket: string) {}

  static async open(machine: Machine): Promise<Terminal> {
    const terminal = new Terminal(machine.path("tmux"));
    onTestFinished(async () => {
      await terminal.#tmux("kill-server").catch(() => undefined);
    });
    const shell = machine.path("shell");
    await writeFile(
      shell,
      `PS1='$ '; hivemind-sqlcipher() { ${process.execPath} ${root}dist/cli/main.js "$@"; }; cd ${machine.folder}\n`,
    );
    await terminal.#tmux(
      ...["-f", "/dev/null", "new-session", "-d", "-x", String(columns), "-y", "50"],
      ...["env", "-u", "NO_COLOR", "LC_ALL=C.UTF-8", "bash", "--noprofile", "--rcfile", shell],
    );
    return terminal;
  }

  /** Types a line, and gives what the terminal showed from it to the exit code. */
  async type(line: string, answers: string[] = []): Promise<string> {
    await this.#tmux("send-keys", "-R", "clear", "Enter");
    await this.#tmux("clear-history");
    await this.#tmux("send-keys", "-l", `${line}; echo "[exit $?]"`);
    await this.#tmux("send-keys", "Enter");
    for (const answer of answers) {
      await this.#until((screen) => /[:?\]] ?$/.test(screen.trimEnd()));
      await this.#tmux("send-keys", "-l", answer);
      await this.#tmux("send-keys", "Enter");
    }
    const screen = await this.#until((shown) => /^\[exit \d+\]$/m.test(shown));
    const typed = '"[exit $?]"';
    return screen
      .slice(screen.lastIndexOf(typed) + typed.length)
      .replace(/\$\s*$/, "")
      .trim();
  }

  async #until(holds: (screen: string) => boolean): Promise<string> {
    let screen = "";
    for (let look = 0; look < 300; look++) {
      screen = (await this.#tmux("capture-pane", "-p", "-J", "-S", "-")).stdout;
      if (holds(screen)) return screen.replace(/ +$/gm, "");
      await new Promise((done) => setTimeout(done, 100));
    }
    throw new Error(`the terminal stands at:\n${screen}`);
  }

  #tmux(...args: string[]) {
    return exec("tmux", ["-S", this.socket, ...args]);
  }
}

/** What differs from run to run, by what it is. Lengths are kept where columns follow. */
function settled(screen: string, machine: Machine): string {
  return screen
    .replaceAll(machine.folder, "~")
    .replaceAll(root, "…/")
    .replaceAll(process.execPath, "node")
    .replace(/AGE-SECRET-KEY-1[0-9A-Z]+/g, "AGE-SECRET-KEY-1…")
    .replace(/age1[0-9a-z]{58}/g, "age1…")
    .replace(/\b[0-9a-f]{64}\b/g, "SHA256")
    .replace(/\b[0-9a-f]{32}\b/g, (text) => "k".repeat(text.length))
    .replace(/\b[0-9a-f]{16}\b/g, (text) => "k".repeat(text.length))
    .replace(/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ/g, "2026-11-24T18-50-00Z")
    .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, "2026-11-24T18:50:00Z")
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "2026-11-24 18:50:00")
    .replace(/ +\d+s(?= +[\d.]+K)/g, (age) => "1s".padStart(age.length))
    .replace(/ {2}[0-9a-f]{8} {2}/g, "  kkkkkkkk  ")
    .replace(/^(size: +)\d+$/gm, "$1…");
}

const walk: [line: string, ...answers: string[]][] = [
  ["hivemind-sqlcipher status"],
  ["hivemind-sqlcipher init --bundle-to bundles --to backups", "y"],
  ["hivemind-sqlcipher add-client --name kitchen"],
  ["hivemind-sqlcipher add-client --name 'Zé \"sala\" 🚀' --admin true --quiet > /dev/null"],
  ["hivemind-sqlcipher list-clients"],
  ["hivemind-sqlcipher show-client 2"],
  ["hivemind-sqlcipher find-client --by name kitchen"],
  ["hivemind-sqlcipher find-client nobody"],
  ["hivemind-sqlcipher rename-client 1 --name 'kitchen, ground floor'"],
  ["hivemind-sqlcipher revoke-admin 2"],
  ["hivemind-sqlcipher make-admin 2"],
  ["hivemind-sqlcipher blacklist-msg speak:b64_audio 1"],
  ["hivemind-sqlcipher allow-msg speak 1"],
  ["hivemind-sqlcipher blacklist-skill skill-weather 1"],
  ["hivemind-sqlcipher allow-skill skill-weather 1"],
  ["hivemind-sqlcipher blacklist-intent skill-weather:today 1"],
  ["hivemind-sqlcipher blacklist-escalate 1"],
  ["hivemind-sqlcipher blacklist-propagate 1"],
  ["hivemind-sqlcipher blacklist-broadcast 1"],
  ["hivemind-sqlcipher allow-broadcast 1"],
  ["hivemind-sqlcipher allow-escalate 1"],
  ["hivemind-sqlcipher allow-propagate 1"],
  ["hivemind-sqlcipher allow-intent skill-weather:today 1"],
  ["hivemind-sqlcipher sql 'SELECT client_id, name, is_admin, last_seen FROM clients'"],
  ["hivemind-sqlcipher sql 'DELETE FROM clients'"],
  ["hivemind-sqlcipher export-clients --path clients.csv"],
  ["hivemind-sqlcipher export-clients --path secrets.json --show-secrets"],
  ["hivemind-sqlcipher import-clients secrets.json --dry-run"],
  ["hivemind-sqlcipher backup --service none"],
  ["hivemind-sqlcipher backups"],
  ["hivemind-sqlcipher verify backups/clients.*.db"],
  ["hivemind-sqlcipher prune --keep-last 1 --dry-run"],
  ["hivemind-sqlcipher bundle show bundles/*.age"],
  ["hivemind-sqlcipher bundle export"],
  ["hivemind-sqlcipher bundle print bundles/*.age -o sheet.html"],
  ["hivemind-sqlcipher bundle import bundles/*.age", "not the key"],
  ["hivemind-sqlcipher delete-client 1"],
  ["hivemind-sqlcipher rotate --hub none --service none --keep-previous"],
  ["hivemind-sqlcipher restore backups/clients.*.db --hub none --service none"],
  ["hivemind-sqlcipher list-clients --revoked"],
  ["hivemind-sqlcipher upgrade-schema --service none --yes"],
  ["hivemind-sqlcipher doctor > findings"],
  ["hivemind-sqlcipher schedule install"],
  ["hivemind-sqlcipher schedule status"],
  ["hivemind-sqlcipher schedule remove"],
  [
    "hivemind-sqlcipher migrate --from hivemind-sqlcipher-db-plugin --to hivemind-json-db-plugin --dry-run",
  ],
  ["hivemind-sqlcipher plugins"],
  ["hivemind-sqlcipher decrypt --service none", "n"],
  ["hivemind-sqlcipher decrypt --service none --hub none --yes"],
  ["hivemind-sqlcipher encrypt --service none --hub none"],
  ["hivemind-sqlcipher completion bash | head -1"],
  ["hivemind-sqlcipher settle"],
  ["hivemind-sqlcipher run"],
  ["hivemind-sqlcipher frobnicate"],
];

test("a walk through the commands shows what walk.txt says", async () => {
  const machine = await Machine.make();
  await mkdir(machine.path("bundles"));
  Object.assign(process.env, {
    XDG_DATA_HOME: machine.path("data"),
    XDG_CONFIG_HOME: machine.path("config"),
    XDG_STATE_HOME: machine.path("state"),
  });
  onTestFinished(() => {
    for (const name of ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"])
      delete process.env[name];
  });
  const terminal = await Terminal.open(machine);
  const shown: string[] = [];
  for (const [line, ...answers] of walk) {
    shown.push(`$ ${line}\n${settled(await terminal.type(line, answers), machine)}\n`);
  }
  await expect(shown.join("\n")).toMatchFileSnapshot("walk.txt");
}, 180_000);
