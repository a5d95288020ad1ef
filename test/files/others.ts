/** Another user of this machine without rights, as which root runs programs. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { onTestFinished } from "vitest";

/** The user nobody, which owns nothing and is in no group. */
export const nobody = 65534;

export const asNobody = [
  ...["setpriv", `--reuid=${nobody}`, `--regid=${nobody}`, "--clear-groups", "--"],
];

/** Only root can run programs as another user, so the tests of this directory need root. */
export const isRoot = process.geteuid?.() === 0;

/** Returns everything below a directory that nobody cannot read, write or search, by access(2). */
export function openToNobody(folder: string): string[] {
  const [program = "", ...words] = [
    ...[...asNobody, "find", folder, "-mindepth", "1"],
    ...["(", "-type", "f", "(", "-readable", "-o", "-writable", ")", "-o"],
    ...["-type", "d", "-writable", ")", "-print"],
  ];
  // find reports unreadable directories and exits with 1.
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
 * A process that watches directories and replaces every file with a matching name by a link to
 * `victim` as soon as it appears: a symbolic link or a hard link in turn.
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
