/** Runs a command in a mount namespace in which a file is mounted on itself. */
export const mounted = (path: string) => ({
  before: [
    ...["unshare", ...(process.geteuid?.() === 0 ? [] : ["--map-root-user"]), "--mount"],
    ...["/bin/sh", "-ec", 'mount --bind "$0" "$0"; exec "$@"', path],
  ],
});
