/**
 * Prints a shell script for `completion SHELL` that completes commands, options and values.
 *
 * The script contains the whole grammar. Starting Node.js at each Tab would take too long.
 */

import { Argument, type Command } from "commander";
import { addHelp } from "../command.js";
import { addGlobalOptions, outputOf } from "../context.js";
import { type CommandEntry, describeCommand, listCommands, type ValueKind } from "./grammar.js";

const shells = ["bash", "zsh", "fish"] as const;
type Shell = (typeof shells)[number];

export function addCommand(program: Command): void {
  const command = program
    .command("completion")
    .description("Print a completion script for a shell")
    .addArgument(new Argument("<bash|zsh|fish>").choices(shells));
  addGlobalOptions(command);
  addHelp(command, {
    details: ["For zsh, the directory of the script must be in fpath."],
    examples: [
      "hivemind-sqlcipher completion bash > ~/.local/share/bash-completion/completions/hivemind-sqlcipher",
      "hivemind-sqlcipher completion zsh > ~/.zfunc/_hivemind-sqlcipher",
      "hivemind-sqlcipher completion fish > ~/.config/fish/completions/hivemind-sqlcipher.fish",
    ],
  });
  command.action((shell: Shell) => {
    const script = completionScript(shell, describeCommand(program));
    outputOf(command).result({ shell, script }, () => [script.trimEnd()]);
  });
}

export function completionScript(shell: Shell, program: CommandEntry): string {
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](program);
}

/** A kind of value, and the `COMMAND OPTION` patterns of the options that take it. */
interface ValueGroup {
  readonly value: ValueKind;
  readonly patterns: string[];
}

const pathOf = (entry: CommandEntry) => entry.names.join(" ");
const namesOf = (entry: CommandEntry) => entry.options.flatMap(({ names }) => names);

function findValuedOptions(program: CommandEntry) {
  const found = listCommands(program).flatMap((entry) =>
    entry.options.flatMap(({ names, value }) =>
      value === undefined ? [] : names.map((name) => ({ name, value, at: pathOf(entry) })),
    ),
  );
  return Map.groupBy(found, ({ name }) => name);
}

/**
 * Groups the options by the kind of value. If an option has different kinds in different commands,
 * its pattern contains the name of the command.
 */
function groupValues(program: CommandEntry): ValueGroup[] {
  const groups = new Map<string, ValueGroup>();
  for (const [name, uses] of findValuedOptions(program)) {
    const kindOf = ({ value }: { value: ValueKind }) => JSON.stringify(value);
    const isSameEverywhere = new Set(uses.map(kindOf)).size === 1;
    for (const use of isSameEverywhere ? uses.slice(0, 1) : uses) {
      const group = groups.get(kindOf(use)) ?? { value: use.value, patterns: [] };
      group.patterns.push(isSameEverywhere ? `*' ${name}'` : `'${use.at} ${name}'`);
      groups.set(kindOf(use), group);
    }
  }
  return [...groups.values()];
}

/**
 * Returns the beginning of a function for bash and zsh, which completes the value of an option and
 * otherwise sets `at` to the command in `words`.
 *
 * @param words - the shell's words between the program and the cursor
 * @param formatValue - returns the command that completes a value
 */
function valueCompletion(
  program: CommandEntry,
  words: string,
  formatValue: (value: ValueKind) => string,
): string {
  const paths = listCommands(program).slice(1).map(pathOf);
  const cases = groupValues(program).map(
    ({ value, patterns }) => `      ${patterns.join("|")}) ${formatValue(value)} ;;`,
  );
  return `local at='' skip='' prev='' word
  for word in ${words}; do
    prev=$word
    if [[ -n $skip ]]; then skip=''; continue; fi
    case $word in
      ${[...findValuedOptions(program).keys()].join("|")}) skip=1 ;;
      -*) ;;
      *)
        case "\${at:+$at }$word" in
          ${paths.map((path) => `'${path}'`).join("|")}) at="\${at:+$at }$word" ;;
        esac ;;
    esac
  done
  if [[ -n $skip ]]; then
    case "$at $prev" in
${cases.join("\n")}
    esac
    return
  fi`;
}

function bashScript(program: CommandEntry): string {
  const values = (value: ValueKind) => {
    if (value.kind === "choices")
      return `COMPREPLY=($(compgen -W '${value.choices.join(" ")}' -- "$cur"))`;
    if (value.kind === "other") return ":";
    return `compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen ${value.kind === "directory" ? "-d" : "-f"} -- "$cur")`;
  };
  return `# bash completion for hivemind-sqlcipher, from: hivemind-sqlcipher completion bash
_hivemind_sqlcipher() {
  local cur=\${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  ${valueCompletion(program, `"\${COMP_WORDS[@]:1:COMP_CWORD-1}"`, values)}
  case $at in
${listCommands(program)
  .map(
    (entry) => `    '${pathOf(entry)}')
      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W '${namesOf(entry).join(" ")} --help' -- "$cur"))
      else ${entry.commands.length > 0 ? `COMPREPLY=($(compgen -W '${entry.commands.map(({ names }) => names.at(-1)).join(" ")}' -- "$cur"))` : values(entry.arguments[0]?.value ?? { kind: "other" })}
      fi ;;`,
  )
  .join("\n")}
  esac
}
complete -F _hivemind_sqlcipher hivemind-sqlcipher
`;
}

function zshScript(program: CommandEntry): string {
  const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const described = (name: string, description: string) =>
    quoted(`${name.replaceAll(":", "\\:")}:${description}`);
  const values = (value: ValueKind) => {
    if (value.kind === "choices") return `compadd -- ${value.choices.join(" ")}`;
    if (value.kind === "other") return "_message value";
    return value.kind === "directory" ? "_files -/" : "_files";
  };
  return `#compdef hivemind-sqlcipher
# zsh completion for hivemind-sqlcipher, from: hivemind-sqlcipher completion zsh
_hivemind-sqlcipher() {
  local -a found
  ${valueCompletion(program, `"\${(@)words[2,CURRENT-1]}"`, values)}
  case $at in
${listCommands(program)
  .map(
    (entry) => `    '${pathOf(entry)}')
      if [[ $PREFIX == -* ]]; then
        found=(${entry.options.flatMap(({ names, description }) => names.map((name) => described(name, description))).join(" ")})
        _describe -o option found
      else
        ${
          entry.commands.length > 0
            ? `found=(${entry.commands.map(({ names, description }) => described(names.at(-1) ?? "", description)).join(" ")})
        _describe command found`
            : values(entry.arguments[0]?.value ?? { kind: "other" })
        }
      fi ;;`,
  )
  .join("\n")}
  esac
}
# compinit loads this file as the body of the function; a shell that sources it registers the function.
if [[ $funcstack[1] == _hivemind-sqlcipher ]]; then
  _hivemind-sqlcipher "$@"
else
  compdef _hivemind-sqlcipher hivemind-sqlcipher
fi
`;
}

function fishScript(program: CommandEntry): string {
  const commands = listCommands(program);
  const quoted = (text: string) => `'${text.replace(/[\\']/g, "\\$&")}'`;
  const values = (value: ValueKind) => {
    if (value.kind === "choices") return `-a ${quoted(value.choices.join(" "))}`;
    if (value.kind === "other") return "";
    return value.kind === "directory" ? "-a '(__fish_complete_directories)'" : "-F";
  };
  const line = (entry: CommandEntry, ...parts: string[]) =>
    ["complete -c hivemind-sqlcipher", `-n "__hivemind_sqlcipher_at '${pathOf(entry)}'"`, ...parts]
      .filter(Boolean)
      .join(" ");
  const lines = commands.flatMap((entry) => [
    ...entry.commands.map((child) =>
      line(entry, `-a ${child.names.at(-1)}`, `-d ${quoted(child.description)}`),
    ),
    ...(entry.commands.length === 0 && entry.arguments[0]
      ? [values(entry.arguments[0].value)].filter(Boolean).map((part) => line(entry, part))
      : []),
    ...entry.options.map(({ names, value, description }) =>
      line(
        entry,
        ...names.map((name) =>
          name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`,
        ),
        value === undefined ? "" : `-r ${values(value)}`.trim(),
        `-d ${quoted(description)}`,
      ),
    ),
  ]);
  return `# fish completion for hivemind-sqlcipher, from: hivemind-sqlcipher completion fish
function __hivemind_sqlcipher_at
    set -l at
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case ${[...findValuedOptions(program).keys()].join(" ")}
                set skip 1
            case '-*'
            case '*'
                if contains -- (string join ' ' -- $at $word) ${commands
                  .slice(1)
                  .map((entry) => quoted(pathOf(entry)))
                  .join(" ")}
                    set at $at $word
                end
        end
    end
    test (string join ' ' -- $at) = "$argv[1]"
end
complete -c hivemind-sqlcipher -f
${lines.join("\n")}
`;
}
