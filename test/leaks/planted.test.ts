/**
 * The search finds what is there: a command that was changed to give its passphrase away, in one
 * way after the other.
 */
import { execFileSync } from "node:child_process";
import { createServer } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { proving, report } from "../prove-report.js";
import { hitsIn, hitsInFiles, hitsInTrace, needlesOf, readTrace, strace, text } from "./search.js";
import { LeakWorld, passphrase } from "./world.js";

test("a secret that is given away is found, whichever way it goes", async () => {
  const world = await LeakWorld.make();
  const { machine } = world;
  const planted = (how: string) => ({
    PLANTED: how,
    PLANTED_FROM: world.passphraseFile,
    PLANTED_SOCKET: machine.path("socket"),
    TMPDIR: machine.path("tmp"),
  });
  const listener = createServer((socket) => socket.resume()).listen(machine.path("socket"));
  onTestFinished(() => {
    listener.close();
  });
  const ways = JSON.parse(
    execFileSync(process.execPath, [`${root}test/leaks/planted.mjs`], {
      env: { ...process.env, ...planted("list") },
    }).toString(),
  ) as string[];
  const needles = needlesOf([text("the passphrase", passphrase)]);
  const missed: string[] = [];
  const tried = ways.filter((_, index) => proving || index % 4 === 0);
  for (const way of tried) {
    const log = machine.path("trace");
    const { stdout, stderr } = await machine.run(["--version"], {
      before: strace(log),
      env: { ...planted(way), NODE_OPTIONS: `--import=${root}test/leaks/planted.mjs` },
    });
    const hits = [
      ...hitsInTrace(await readTrace(log), needles),
      ...hitsIn(Buffer.from(stdout), "stdout", needles),
      ...hitsIn(Buffer.from(stderr), "stderr", needles),
      ...hitsInFiles(machine.folder, needles, [log, ...world.secretFiles]),
    ];
    if (hits.length === 0) missed.push(`${way}: ${stderr}`);
  }
  report("the search for secrets: planted ones that it finds", tried.length, missed.length);
  expect(missed).toEqual([]);
}, 300_000);
