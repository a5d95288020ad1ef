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

/** Options with the same kind of value, in all commands or in the command path `at`. */
interface ValueGroup {
  readonly value: ValueKind;
  readonly options: { readonly name: string; readonly at?: string }[];
}

/**
 * Groups all options with a value by the kind of value. An option whose kind differs in some
 * commands comes first for these commands, because a shell's `case` takes the first match.
 */
function groupValues(program: CommandEntry): ValueGroup[] {
  const meanings = new Map<string, Map<string, { value: ValueKind; at: string[] }>>();
  for (const entry of listCommands(program)) {
    for (const { names, value } of entry.options) {
      if (value === undefined) continue;
      for (const name of names) {
        const ofName = meanings.get(name) ?? new Map<string, { value: ValueKind; at: string[] }>();
        const key = JSON.stringify(value);
        const meaning = ofName.get(key) ?? { value, at: [] };
        meaning.at.push(pathOf(entry));
        meanings.set(name, ofName.set(key, meaning));
      }
    }
  }
  const groups = new Map<string, ValueGroup>();
  const add = (value: ValueKind, option: ValueGroup["options"][number]) => {
    const key = JSON.stringify(value) + (option.at === undefined ? " everywhere" : "");
    const group = groups.get(key) ?? { value, options: [] };
    group.options.push(option);
    groups.set(key, group);
  };
  for (const [name, ofName] of meanings) {
    const [usual, ...others] = [...ofName.values()].sort((a, b) => b.at.length - a.at.length);
    for (const { value, at } of others) for (const each of at) add(value, { name, at: each });
    if (usual) add(usual.value, { name });
  }
  const isOfCommands = ({ options }: ValueGroup) => options[0]?.at !== undefined;
  return [...groups.values()].sort((a, b) => Number(isOfCommands(b)) - Number(isOfCommands(a)));
}

/** Returns `COMMAND OPTION` patterns for a shell's `case`. */
function formatPatterns({ options }: ValueGroup): string {
  return options
    .map(({ name, at }) => (at === undefined ? `*' ${name}'` : `'${at} ${name}'`))
    .join("|");
}

function listValuedNames(groups: readonly ValueGroup[]): string[] {
  return [...new Set(groups.flatMap(({ options }) => options.map(({ name }) => name)))];
}

const pathOf = (entry: CommandEntry) => entry.names.join(" ");
const namesOf = (entry: CommandEntry) => entry.options.flatMap(({ names }) => names);

function bashScript(program: CommandEntry): string {
  const commands = listCommands(program);
  const groups = groupValues(program);
  const values = (value: ValueKind) => {
    if (value.kind === "choices")
      return `COMPREPLY=($(compgen -W '${value.choices.join(" ")}' -- "$cur"))`;
    if (value.kind === "other") return ":";
    return `compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen ${value.kind === "directory" ? "-d" : "-f"} -- "$cur")`;
  };
  return `# bash completion for hivemind-sqlcipher, from: hivemind-sqlcipher completion bash
_hivemind_sqlcipher() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at='' skip='' word
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [[ $skip ]]; then skip=''; continue; fi
    case $word in
      ${listValuedNames(groups).join("|")}) skip=1 ;;
      -*) ;;
      *)
        case "\${at:+$at }$word" in
          ${commands
            .slice(1)
            .map((entry) => `'${pathOf(entry)}'`)
            .join("|")}) at="\${at:+$at }$word" ;;
        esac ;;
    esac
  done
  COMPREPLY=()
  if [[ $skip ]]; then
    case "$at $prev" in
${groups.map((group) => `      ${formatPatterns(group)}) ${values(group.value)} ;;`).join("\n")}
    esac
    return
  fi
  case $at in
${commands
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
  const commands = listCommands(program);
  const groups = groupValues(program);
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
  local at='' skip='' word
  local -a found
  for word in "\${(@)words[2,CURRENT-1]}"; do
    if [[ -n $skip ]]; then skip=''; continue; fi
    case $word in
      (${listValuedNames(groups).join("|")}) skip=1 ;;
      (-*) ;;
      (*)
        case "\${at:+$at }$word" in
          (${commands
            .slice(1)
            .map((entry) => `'${pathOf(entry)}'`)
            .join("|")}) at="\${at:+$at }$word" ;;
        esac ;;
    esac
  done
  if [[ -n $skip ]]; then
    case "$at \${words[CURRENT-1]}" in
${groups.map((group) => `      (${formatPatterns(group)}) ${values(group.value)} ;;`).join("\n")}
    esac
    return
  fi
  case $at in
${commands
  .map(
    (entry) => `    ('${pathOf(entry)}')
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
            case ${listValuedNames(groupValues(program)).join(" ")}
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
