/** What this program makes is its user's alone; what it starts on somebody's behalf has the mask that it came with. */

let inherited: number | undefined;

/** From now on nobody else may use what is made. */
export function setPrivateUmask(): void {
  inherited = process.umask(0o077);
}

/** As it was when this program was started: for the hub, which takes this process's mask. */
export function restoreUmask(): void {
  if (inherited !== undefined) process.umask(inherited);
}

/** A shell's program that runs under the mask that this program was started with. */
export function withInheritedUmask(program: string): string {
  return inherited === undefined ? program : `umask ${inherited.toString(8)}\n${program}`;
}
