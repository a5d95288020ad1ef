/** The help, the man page and the completion scripts, all from commander's definitions. */
import { spawn } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { expect, test } from "vitest";
import { completionScript } from "../../src/cli/docs/completion.js";
import { type CommandEntry, describeCommand, listCommands } from "../../src/cli/docs/grammar.js";
import { manPage } from "../../src/cli/docs/man.js";
import { buildProgram } from "../../src/cli/program.js";
import { Output } from "../../src/cli/ui/output.js";
import { exec } from "../service/units.js";
import { temporaryFolder } from "../store/temporary.js";
import { Machine } from "./machine.js";

const output = new Output({ json: false, quiet: false, verbose: false, color: false });
const program = describeCommand(await buildProgram(output));
const commands = listCommands(program);
const leaves = commands.filter((entry) => entry.commands.length === 0);
const named = (entry: CommandEntry) => entry.names.join(" ");

/** Returns the examples in a command's help. */
function examplesOf({ notes }: CommandEntry): string[] {
  return (notes.split(/^Examples?:$/m)[1] ?? "")
    .split("\n")
    .filter((line) => line.startsWith("  "))
    .map((line) => line.trim());
}

test("every command's help has examples, of that command, with options that it has", () => {
  expect(leaves.length).toBeGreaterThan(30);
  const faults = leaves.flatMap((entry) => {
    const examples = examplesOf(entry).filter((line) => line.includes("hivemind-sqlcipher "));
    if (examples.length === 0) return [`${named(entry)}: no example`];
    const known = entry.options.flatMap(({ names }) => names);
    return examples.flatMap((line) => {
      const own =
        line.slice(line.indexOf("hivemind-sqlcipher ")).split(/ \| | -- | > | # /)[0] ?? "";
      const words = own
        .replace(/'[^']*'/g, "QUOTED")
        .split(/\s+/)
        .slice(1);
      const used = words.filter((word) => /^--?[a-z]/.test(word));
      const wrong = used.filter((word) => !known.includes(word));
      const other = words.slice(0, entry.names.length).join(" ") !== named(entry);
      return [
        ...wrong.map((word) => `${named(entry)} has no ${word}: ${line}`),
        ...(other ? [`not an example of ${named(entry)}: ${line}`] : []),
      ];
    });
  });
  expect(faults).toEqual([]);
});

test("only the command that is named is loaded", async () => {
  const words = program.commands.map(({ names: [name = ""] }) => name);
  for (const word of [...words.filter((each) => each !== "completion"), "settle"]) {
    const built = await buildProgram(output, ["--json", "--name", "prune", word, "--help"]);
    const names = built.commands.map((command) => command.name());
    expect(names, word).toContain(word);
    expect(names.length, word).toBeLessThan(words.length / 2);
  }
  const everything = (await buildProgram(output)).commands.length;
  for (const argv of [
    [],
    ["--help"],
    ["help"],
    ["--name", "prune", "completion", "bash"],
    ["inti"],
  ]) {
    expect((await buildProgram(output, argv)).commands.length, argv.join(" ")).toBe(everything);
  }
});

/** How descriptions may begin. Add a verb when a new description needs one. */
const imperatives = new Set(
  `Accept Add Adopt Allow Assume Back Check Choose Compare Convert Copy Create Delay Delete Encrypt Export
  Find Forbid Import Include Insert Install Keep List Look Make Manage Name Open Print Read Readmit
  Re-encrypt Remember Remove Rename Replace Report Restore Revoke Rotate Run Schedule Set Show Start Stop Take
  Encrypt, Update Upgrade Use Verify Write Recover`.split(/\s+/),
);

function descriptionFault(where: string, description: string): string[] {
  const [verb = ""] = description.split(" ");
  if (!imperatives.has(verb)) return [`${where} does not begin with a known verb: ${description}`];
  if (description.length > 60) return [`${where} has ${description.length} characters`];
  return /[.\n]$|\n/.test(description) ? [`${where} is not one line without a full stop`] : [];
}

test("every description is one imperative line of at most 60 characters", () => {
  const faults = commands.flatMap((entry) => [
    ...descriptionFault(named(entry) || "the program", entry.description),
    ...entry.options.flatMap(({ flags, description }) =>
      descriptionFault(`${named(entry)} ${flags}`, description),
    ),
  ]);
  expect([...new Set(faults)]).toEqual([]);
});

test("choices are printed once", async () => {
  const helps = (command: Command): string[] => [
    command.helpInformation(),
    ...command.commands.flatMap(helps),
  ];
  for (const help of helps(await buildProgram(output))) expect(help).not.toContain("choices:");
});

test("every command takes the global options", () => {
  const global = program.options.filter(({ isGlobal }) => isGlobal).map(({ flags }) => flags);
  expect(global).toContain("--json");
  for (const entry of leaves) {
    const missing = global.filter(
      (flags) => !entry.options.some((option) => option.flags === flags),
    );
    // add-client's --name is the client's.
    expect(
      missing.filter((flags) => !/--name/.test(flags)),
      named(entry),
    ).toEqual([]);
  }
});

test("an option takes a value in every command that has it, or in none", () => {
  const takes = new Map<string, boolean>();
  for (const { options } of commands) {
    for (const { names, value } of options) {
      for (const name of names) {
        expect(takes.get(name) ?? value !== undefined, name).toBe(value !== undefined);
        takes.set(name, value !== undefined);
      }
    }
  }
});

test("the man page has every command and option, and man prints no warnings", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "hivemind-sqlcipher.1");
  await writeFile(path, manPage(program, "1.2.3"));
  const { stdout, stderr } = await exec("man", ["--warnings", "--local-file", path], {
    env: { ...process.env, MANWIDTH: "200", LC_ALL: "C.UTF-8", MANROFFOPT: "-c" },
  });
  expect(stderr).toBe("");
  const text = stdout.replace(/\s+/g, " ");
  expect(text).toMatch(/^HIVEMIND-SQLCIPHER\(1\)/);
  for (const entry of leaves) {
    expect(text).toContain(`hivemind-sqlcipher ${entry.usage.replaceAll("…", "...")}`);
    for (const { flags } of entry.options) expect(text).toContain(flags.replaceAll("…", "..."));
    for (const example of examplesOf(entry)) {
      expect(text).toContain(example.replaceAll("…", "...").replace(/\s+/g, " "));
    }
  }
  expect(text).toMatch(
    /EXIT STATUS 0 done 1 failed or findings 2 wrong usage 10 no such store, backup, bundle or client 11 /,
  );
});

test("a missing command prints the help to stderr", async () => {
  const machine = await Machine.make();
  for (const words of [[], ["schedule"], ["bundle"]]) {
    const { code, stdout, stderr } = await machine.run(words);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(/^Usage: hivemind-sqlcipher/);
    const json = await machine.run(["--json", ...words]);
    expect(JSON.parse(json.stdout)).toMatchObject({
      error: { code: 2, message: "no command given" },
    });
  }
});

test("global options may follow the name of a command group", async () => {
  const machine = await Machine.make();
  const { code, stdout } = await machine.run(["schedule", "--json", "--name", "other", "status"]);
  expect({ code, document: JSON.parse(stdout) }).toEqual({
    code: 0,
    document: { schedule: null, drill: null },
  });
});

test("no line of any help is wider than a terminal of 80 columns, but for examples", async () => {
  const lines = (command: Command): string[] => [
    ...command.helpInformation().split("\n"),
    ...command.commands.flatMap(lines),
  ];
  const notes = commands.flatMap((entry) => entry.notes.split("\n"));
  const text = [
    ...lines(await buildProgram(output)),
    ...notes.filter((line) => !line.startsWith("  ")),
  ];
  expect(text.length).toBeGreaterThan(500);
  expect(text.filter((line) => line.length > 80)).toEqual([]);
});

interface Shell {
  /** Writes the start-up file, and returns the command that starts the shell with it. */
  start: (folder: string, script: string) => Promise<{ command: string; env?: NodeJS.ProcessEnv }>;
  script: "bash" | "zsh";
}

const shown = `hivemind-sqlcipher() { printf 'typed:'; printf '<%s>' "$@"; printf ':end\\n'; }\n`;

const shells: Shell[] = [
  {
    script: "bash",
    start: async (folder, script) => {
      await writeFile(join(folder, "completion"), script);
      await writeFile(join(folder, "rc"), `source ${folder}/completion\n${shown}PS1='READY'\n`);
      return { command: `bash --noprofile --rcfile ${folder}/rc -i` };
    },
  },
  {
    script: "zsh",
    start: async (folder, script) => {
      await mkdir(join(folder, "functions"));
      await writeFile(join(folder, "functions", "_hivemind-sqlcipher"), script);
      await writeFile(
        join(folder, ".zshrc"),
        `fpath=(${folder}/functions $fpath)\nautoload -Uz compinit; compinit -u -D\n${shown}PS1='READY'\n`,
      );
      return { command: "zsh -i", env: { ZDOTDIR: folder } };
    },
  },
];

/** Types a line into a shell on a terminal, and returns the arguments that the command gets. */
async function typed(shell: Shell, line: string): Promise<string[]> {
  const folder = await temporaryFolder();
  await mkdir(join(folder, "backups-of-mine"));
  await writeFile(join(folder, "sheet.html"), "");
  const { command, env } = await shell.start(folder, completionScript(shell.script, program));
  const child = spawn("script", ["-qfec", command, "/dev/null"], {
    cwd: folder,
    env: { ...process.env, TERM: "xterm", ...env },
    stdio: ["pipe", "pipe", "ignore"],
  });
  try {
    let text = "";
    let isReady = false;
    for await (const chunk of child.stdout) {
      text += chunk;
      if (!isReady && text.includes("READY")) {
        isReady = true;
        child.stdin.write(`${line}\n`);
      }
      const answer = /typed:(.*):end/.exec(text)?.[1];
      if (answer !== undefined)
        return [...answer.matchAll(/<([^>]*)>/g)].map(([, word = ""]) => word);
    }
    throw new Error(text);
  } finally {
    child.kill("SIGKILL");
  }
}

/** What is typed, with tabs, and the arguments that it completes to. */
const lines: [string, string[]][] = [
  ["bundle exp\t", ["bundle", "export"]],
  ["--json bund\texp\t--bundle-t\t", ["--json", "bundle", "export", "--bundle-to"]],
  ["completion f\t", ["completion", "fish"]],
  ["rotate --hub n\t", ["rotate", "--hub", "none"]],
  ["backup --to back\t", ["backup", "--to", "backups-of-mine"]],
  ["bundle print sh\t", ["bundle", "print", "sheet.html"]],
  // The value of an option is not a command, whatever its name.
  ["--db backup sched\tins\t", ["--db", "backup", "schedule", "install"]],
];

test.for(shells)("$script completes commands, options, values and files", async (shell) => {
  for (const [line, words] of lines) {
    const given = await typed(shell, `hivemind-sqlcipher ${line}`);
    // Shells differ in whether a completed directory keeps its slash.
    expect(given.map((word) => word.replace(/\/$/, ""))).toEqual(words);
  }
});

test("fish completes the same", async () => {
  const folder = await temporaryFolder();
  await mkdir(join(folder, "backups-of-mine"));
  await writeFile(join(folder, "sheet.html"), "");
  await writeFile(join(folder, "completion.fish"), completionScript("fish", program));
  for (const [line, words] of lines) {
    const before = line.replace(/\t(?=.)/g, " ").replace(/\t$/, "");
    const full = before
      .split(" ")
      .map((word, index) => (index + 1 < before.split(" ").length ? words[index] : word));
    const { stdout } = await exec(
      "fish",
      [
        "--no-config",
        "-c",
        'source completion.fish; complete -C "hivemind-sqlcipher $argv"',
        "--",
        full.join(" "),
      ],
      { cwd: folder, env: { ...process.env, HOME: folder } },
    );
    expect(stdout.split("\n").map((each) => each.split("\t")[0])).toContainEqual(
      expect.stringMatching(new RegExp(`^${words.at(-1)}/?$`)),
    );
  }
});
