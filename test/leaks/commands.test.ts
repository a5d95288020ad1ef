/**
 * No command shows a secret to anybody: not in an argument, an environment, a name, a file, a pipe
 * or a socket, and not in what it prints, with --verbose and with --json. Which commands there are
 * is the grammar's to say, so that none can be forgotten.
 *
 * All of them, in both forms, with PROVE=1; some otherwise.
 */
import { expect, test } from "vitest";
import { describeCommand, listCommands } from "../../src/cli/docs/grammar.js";
import { buildProgram } from "../../src/cli/program.js";
import { Output } from "../../src/cli/ui/output.js";
import { proving, report } from "../prove-report.js";
import { scenarios } from "./scenarios.js";
import { hitsIn, hitsInFiles, hitsInTrace, needlesOf, readTrace, strace } from "./search.js";
import { LeakWorld } from "./world.js";

const grammar = describeCommand(
  await buildProgram(new Output({ json: false, quiet: false, verbose: false, color: false })),
);

test("every command of the grammar is among those that are searched", () => {
  const leaves = listCommands(grammar).filter(({ commands }) => commands.length === 0);
  const names = leaves.map((leaf) => leaf.names.join(" "));
  const searched = new Set(Object.keys(scenarios).map((name) => name.replace(/ --.*/, "")));
  expect([...searched].toSorted()).toEqual([...names, "settle"].toSorted());
});

test("no command shows a secret where it was not asked to", async () => {
  const world = await LeakWorld.make();
  const { machine } = world;
  const found: string[] = [];
  const wrongCodes: string[] = [];
  let tried = 0;
  let secrets = await world.secrets();
  for (const [name, scenario] of Object.entries(scenarios)) {
    if (!proving && !scenario.short) continue;
    const forms =
      scenario.once || !proving ? [["--verbose", "--json"]] : [["--verbose"], ["--json"]];
    await scenario.before?.(world);
    for (const [nth, form] of forms.entries()) {
      const log = machine.path("trace");
      const args = scenario.args?.(world) ?? [];
      const dashes = args.indexOf("--");
      const [own, hubs] = dashes === -1 ? [args, []] : [args.slice(0, dashes), args.slice(dashes)];
      const { code, stdout, stderr } = await machine.run(
        [...name.split(" "), ...own, ...form, ...hubs],
        {
          before: strace(log),
          env: { TMPDIR: machine.path("tmp"), PWD: machine.folder },
          ...(scenario.input !== undefined && { input: scenario.input }),
        },
      );
      const traced = await readTrace(log);
      const after = await world.secrets();
      const needles = needlesOf([...secrets, ...after]);
      secrets = after;
      const except = [log, ...world.secretFiles, machine.path("import.json")];
      const hits = [
        ...hitsInTrace(traced, needles),
        ...hitsIn(Buffer.from(stdout), "stdout", needles),
        ...hitsIn(Buffer.from(stderr), "stderr", needles),
        ...hitsInFiles(machine.folder, needles, except),
      ].filter((hit) => !(scenario.asked?.(hit) ?? false));
      tried += 1;
      if (nth === 0 && code !== (scenario.code ?? 0))
        wrongCodes.push(`${name}: ${code} ${stderr} ${stdout}`);
      expect(traced.calls, name).toBeGreaterThan(1);
      for (const { secret, encoding, where } of hits) {
        found.push(`${name} ${form.join(" ")}: ${secret}, ${encoding}: ${where}`);
      }
    }
    await scenario.after?.(world);
  }
  report(
    "commands under strace: no secret where it does not belong",
    tried,
    new Set(found.map((line) => line.split(":")[0])).size,
  );
  expect(found).toEqual([]);
  expect(wrongCodes).toEqual([]);
}, 1_200_000);
