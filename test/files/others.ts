/** Another user of this machine, played by root as somebody who has no rights of their own. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { onTestFinished } from "vitest";

/** Nobody: owns nothing, is in no group. */
export const nobody = 65534;

export const asNobody = [
  ...["setpriv", `--reuid=${nobody}`, `--regid=${nobody}`, "--clear-groups", "--"],
];

/** Only root can be another user; the tests of this folder are root's. */
export const isRoot = process.geteuid?.() === 0;

/** What nobody can read or write below a folder, or do with its folders, by access(2). */
export function openToNobody(folder: string): string[] {
  const [program = "", ...words] = [
    ...[...asNobody, "find", folder, "-mindepth", "1"],
    ...["(", "-type", "f", "(", "-readable", "-o", "-writable", ")", "-o"],
    ...["-type", "d", "-writable", ")", "-print"],
  ];
  // find says what it may not look into, and ends with 1.
  const { stdout } = spawnOutcome(program, words);
  return stdout.split("\n").filter(Boolean);
}

export function spawnOutcome(program: string, words: string[]): { code: number; stdout: string } {
  try {
    const stdout = execFileSync(program, words, { stdio: ["ignore", "pipe", "ignore"] });
    return { code: 0, stdout: stdout.toString() };
  } catch (error) {
    const { status, stdout } = error as { status: number | null; stdout: Buffer };
    return { code: status ?? -1, stdout: stdout.toString() };
  }
}

/**
 * Somebody who watches folders all the time, and puts a link to `victim` in the place of every file with a name that
 * matches, as soon as it is there: a symbolic link, or a hard link every other time.
 */
const swapper = `
use strict;
my ($victim, $pattern, @folders) = @ARGV;
$| = 1;
print "watching\\n";
my $turn = 0;
while (1) {
  for my $folder (@folders) {
    opendir(my $entries, $folder) or next;
    for my $name (readdir $entries) {
      my $path = "$folder/$name";
      next unless $name =~ /$pattern/;
      next if -l $path;
      next unless unlink $path;
      $turn++ % 2 ? link($victim, $path) : symlink($victim, $path);
    }
    closedir $entries;
  }
}
`;

export async function startSwapper(
  victim: string,
  pattern: string,
  folders: string[],
  as: readonly string[] = asNobody,
): Promise<ChildProcess> {
  const [program = "", ...words] = [...as, "perl", "-e", swapper, victim, pattern, ...folders];
  const child = spawn(program, words, { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  const up = await Promise.race([
    once(child.stdout, "data").then(() => true),
    once(child, "exit").then(() => false),
  ]);
  if (!up) throw new Error("nobody swaps anything: perl did not start");
  return child;
}
