/** What this program makes is its user's alone; what the hub makes is the hub's own affair. */
let inherited: number | undefined;

/** From now on nobody else may use what is made. */
export function makePrivate(): void {
  inherited = process.umask(0o077);
}

/** As it was when this program was started: for the hub, which takes this process's mask. */
export function restoreUmask(): void {
  if (inherited !== undefined) process.umask(inherited);
}
