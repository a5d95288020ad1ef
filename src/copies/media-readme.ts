/** The README.txt of an export to offline media. */
import { type Manifest, manifestPath } from "../backup/manifest.js";
import { bundleName } from "../keys/bundle-name.js";
import { shellQuote } from "../text/escape.js";

export interface ReadmeFacts {
  readonly manifest: Manifest;
  /** The names of the backup's files. */
  readonly parts: readonly string[];
  readonly deviceLabel: string | undefined;
  readonly exportedAt: Date;
}

/**
 * Returns the instructions. A test runs every line indented by four as a command.
 */
export function formatMediaReadme({
  manifest,
  parts,
  deviceLabel,
  exportedAt,
}: ReadmeFacts): string {
  const { file, created_at, hostname, key_id, clients, size } = manifest;
  const bundle = bundleName(key_id);
  const key = `--bundle /dev/shm/${bundle} --identity /dev/shm/recovery-key.txt`;
  const name = quoteArgument(file);
  const isSplit = parts.length > 1 || parts[0] !== file;
  return `Backup of the client store of a HiveMind hub

Backup:    ${file}${isSplit ? `, in ${parts.length} parts` : ""}
Made:      ${created_at}, on ${JSON.stringify(hostname)}
Clients:   ${clients.active} active, ${clients.revoked} revoked
Size:      ${size} bytes
key_id:    ${key_id}
Exported:  ${exportedAt.toISOString()}
${deviceLabel === undefined ? "" : `Medium:    ${JSON.stringify(deviceLabel)}\n`}
The backup is encrypted. This directory has everything that opens it, except two things, which are
kept elsewhere:

- the bundle ${bundle}, a file or a printed recovery sheet;
- the recovery key, a file with a line AGE-SECRET-KEY-1... (or the bundle's own passphrase).

Keep both away from this medium. The steps need Python 3.9 or later and no other software. They use
/dev/shm, which is memory on Linux, because the results are not encrypted.

1. Open a terminal in this directory, and check that its files are unchanged:

    sha256sum -c SHA256SUMS

2. Type umask 077, so that no other user can read what you copy. Copy the bundle to
   /dev/shm/${bundle}, and the recovery key to /dev/shm/recovery-key.txt.

   From a printed sheet, scan its codes in their order into the bundle's file, each on a new line.
   Or type the lines into a file. Leave out the number at the start of each line, the check at its
   end, and the last line, which begins with "all". Then decode the file:

    python3 -c "import base64, sys; sys.stdout.buffer.write(base64.b64decode(sys.stdin.read()))" < TYPED > /dev/shm/${bundle}

3. Decrypt the backup. This verifies every byte of it, and writes an ordinary SQLite database:

    python3 open_backup.py open ${name} /dev/shm/clients.db ${key}

   If the bundle has its own passphrase, leave out --identity: open_backup.py asks for it. If you
   have only the passphrase of the store, leave out --bundle, too. To see that passphrase, if age
   is installed:

    age -d -i /dev/shm/recovery-key.txt /dev/shm/${bundle}

4. Read the clients with their access keys:

    python3 -c "import sqlite3; print(*sqlite3.connect('/dev/shm/clients.db').execute('SELECT client_id, name, api_key FROM clients'), sep='\\n')"

5. Remove what is not encrypted when you are done:

    rm /dev/shm/clients.db /dev/shm/recovery-key.txt

To restore the hub, install hivemind-sqlcipher on its machine, and instead of steps 3 and 4 run:

    hivemind-sqlcipher restore ${name} ${key}

Then remove the recovery key from /dev/shm.

A hub without hivemind-sqlcipher can use the database of step 3, if server.json names
hivemind-sqlite-db-plugin. The clients are not encrypted then. Stop the hub. The line below moves
its former database away, with the files beside it, and copies the database of step 3: SQLite would
write a clients.db-wal or clients.db-journal of the former database into the restored one. On a
machine without a former database, only the part from cp on is needed.

    old=$(mktemp -d ~/former-clients.XXXX) && mv ~/.local/share/hivemind-core/clients.db* "$old" && cp /dev/shm/clients.db ~/.local/share/hivemind-core/
${isSplit ? formatJoinText(name, parts) : ""}
Files:

- ${file}${isSplit ? ".001 and so on" : ""}: the backup, encrypted by SQLCipher
- ${manifestPath(file)}: its manifest, with an authenticated checksum
- open_backup.py: the program of step 3
- formats.md: the description of every format, byte by byte, from which such a program can be written
- SHA256SUMS: the checksums of the files
`;
}

function formatJoinText(name: string, parts: readonly string[]): string {
  return `
open_backup.py and hivemind-sqlcipher read the parts. Other programs need them joined:

    cat ${parts.map(quoteArgument).join(" ")} > /dev/shm/${name}
`;
}

/** Quotes a name only if a shell would change it. */
function quoteArgument(name: string): string {
  return /^[\w.-]+$/.test(name) && !name.startsWith("-") ? name : shellQuote(name);
}
