/** Passphrases sealed by a real systemd-creds, in a system of its own. */
import { execFile } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { parsePassphraseLines } from "../../src/keys/passphrase-file.js";
import { resolveSealingScope } from "../../src/keys/sealed.js";
import { root } from "../built.js";
import { temporaryFolder } from "../store/temporary.js";

describe("which systemd seals for whom", () => {
  test.each([
    [250, true, []],
    [252, true, []],
    [256, false, ["--user"]],
    [259, false, ["--user"]],
  ])("systemd %i, root: %s", (version, ofRoot, scope) => {
    expect(resolveSealingScope(version, ofRoot)).toEqual(scope);
  });

  test.each([
    [
      undefined,
      true,
      /^systemd-creds is not installed: .* needs systemd 250 or later$/,
      /file:PATH/,
    ],
    [247, true, /^systemd is 247: .* needs systemd 250 or later$/, /file:PATH/],
    [
      252,
      false,
      /^systemd is 252: .* for an ordinary user needs systemd 256/,
      /^Run this command as root/,
    ],
    [247, false, /^systemd is 247: /, /file:PATH/],
  ])("systemd %s cannot, root: %s", (version, ofRoot, message, hint) => {
    expect(() => resolveSealingScope(version, ofRoot)).toThrow(
      expect.objectContaining({
        kind: "passphraseUnavailable",
        message: expect.stringMatching(message),
        hint: expect.stringMatching(hint),
      }),
    );
  });
});

test("each line of a sealed text is a passphrase", () => {
  expect(parsePassphraseLines("one", "x")).toEqual(["one"]);
  expect(parsePassphraseLines("new\nold", "x")).toEqual(["new", "old"]);
});

/** Runs shell lines as root next to a system manager of its own; returns what they print. */
async function inSystem(lines: string): Promise<string> {
  const home = join(await temporaryFolder(), "home");
  await mkdir(home);
  const script = `
    set -o pipefail
    ulimit -c 0
    # systemd-creds keeps no key of the machine in memory.
    mkdir $HOME/lib; mount --bind $HOME/lib /var/lib/systemd
    store=$HOME/clients.db
    sealed=/run/credstore/sealed
    program() { ${process.execPath} ${root}dist/cli/main.js "$@"; }
    hub() { program "$@" --db $store --config $HOME/config.json --passphrase-source sealed:$sealed --yes; }
    unsealed() { systemd-creds decrypt --name=hivemind-sqlcipher $sealed -; }
    opens() { hub list-clients --quiet | grep -c kitchen; }
    killed_at() {
      local step=$1; shift
      if NODE_OPTIONS=--import=${root}test/faults/at-step.mjs HIVEMIND_TEST_AT_STEP="{\\"$step\\":\\"kill\\"}" \\
        hub "$@" >$HOME/killed.log 2>&1; then cat $HOME/killed.log >&2; return 1; fi
    }
    bundles=/dev/shm/bundles; mkdir -m 700 $bundles
    hub init --to $HOME/backups --bundle-to $bundles --recovery-key-file $HOME/key.txt >/dev/null
    hub add-client --name kitchen >/dev/null
    ${lines}`;
  const session = join(root, "scripts/private-session");
  try {
    const words = ["--system", home, "/bin/bash", "-euc", script];
    return (await promisify(execFile)(session, words)).stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${stdout}\n${stderr}`);
  }
}

test("init seals a passphrase, and every rotation one, whatever kills it", async () => {
  const output = await inSystem(`
    stat -c %a $sealed
    unsealed | wc -l
    first=$(unsealed)
    ! grep -rqaF "$first" $HOME /etc/systemd /var/lib/systemd || echo leaked
    hub rotate --bundle-to $bundles --service none --hub none >/dev/null
    second=$(unsealed)
    [[ $first != "$second" && $second != *$'\\n'* ]] && echo rotated
    opens
    for step in staging staged filled renamed removed; do
      killed_at rotate.$step rotate --bundle-to $bundles --service none --hub none
      unsealed | grep -c .
      opens 2>/dev/null
    done
    # What the killed rotations left may be the passphrase of another store.
    before=$(unsealed | wc -l)
    hub rotate --bundle-to $bundles --service none --hub none >/dev/null
    [[ $(unsealed | wc -l) == $before ]] && echo 1
    opens
    # A hub that does not start on the new store, and does not stop either: its old file is put back
    # by the next command, which needs the old passphrase.
    cat >$HOME/start <<'START'
touch $2
before=$(wc -l <$2)
setsid bash -c 'exec 3<"$0"; echo $$ >>"$1"; exec sleep infinity' $1 $2 >/dev/null 2>&1 &
while [[ $(wc -l <$2) == $before ]]; do sleep 0.01; done
[[ ! -e $2.stopped ]]
START
    cat >$HOME/stop <<'STOP'
[[ ! -e $1.stopped ]] && kill $(cat $1) && rm $1 && touch $1.stopped
STOP
    start="bash $HOME/start $store $HOME/pids"
    $start
    before=$(unsealed)
    hub rotate --bundle-to $bundles --hub none --start-command "$start" \\
      --stop-command "bash $HOME/stop $HOME/pids" >/dev/null 2>&1 || true
    kill $(cat $HOME/pids)
    rm $HOME/pids $HOME/pids.stopped
    opens 2>/dev/null
    kill $(cat $HOME/pids)
    [[ $(unsealed) == *"$before" ]] && echo reverted`);
  const lines = output.trim().split("\n");
  expect(lines.slice(0, 4)).toEqual(["600", "0", "rotated", "1"]);
  const opened = lines.slice(4, -2).filter((_, index) => index % 2 === 1);
  expect(opened).toEqual(["1", "1", "1", "1", "1", "1"]);
  expect(lines.slice(-4)).toEqual(["1", "1", "1", "reverted"]);
});

test("a backup under an earlier passphrase is restored, and a bundle replaces a lost seal", async () => {
  const output = await inSystem(`
    hub backup --to $HOME/backups --bundle-to $bundles --service none >/dev/null
    first=$(unsealed)
    hub rotate --bundle-to $bundles --service none --hub none >/dev/null
    backup=$(ls $HOME/backups/*.db)
    keyid=$(head -c 8 $backup | od -An -tx1 | tr -d ' \\n')
    hub restore $backup --bundle $bundles/clients.$keyid.bundle.age --identity $HOME/key.txt \\
      --service none --hub none >/dev/null 2>$HOME/restore.log || cat $HOME/restore.log
    [[ $(unsealed) == "$first"$'\\n'* ]] && echo restored
    opens
    # The store that was replaced is kept, and so is its passphrase.
    cp $store.replaced.* $HOME/replaced.db
    program list-clients --db $HOME/replaced.db --passphrase-source sealed:$sealed --quiet | grep -c kitchen
    rm /var/lib/systemd/credential.secret
    hub list-clients 2>&1 >/dev/null | head -2 || true
    hub bundle import $bundles/clients.$keyid.bundle.age --identity $HOME/key.txt >/dev/null
    opens
    program list-clients --db $store --passphrase-source credential 2>&1 | head -1 || true
    cat >/etc/systemd/system/reader.service <<UNIT
[Service]
Type=oneshot
LoadCredentialEncrypted=hivemind-sqlcipher:$sealed
Environment=HOME=$HOME
StandardOutput=append:$HOME/reader.log
ExecStart=${process.execPath} ${root}dist/cli/main.js list-clients --db $store --passphrase-source credential
UNIT
    systemctl daemon-reload
    systemctl start reader
    grep -c kitchen $HOME/reader.log`);
  const lines = output.trim().split("\n");
  expect(lines.slice(0, 3)).toEqual(["restored", "1", "1"]);
  expect(lines[3]).toMatch(/^error: cannot unseal \S+: /);
  expect(lines[4]).toMatch(/^ {2}Only the machine and the TPM that sealed it/);
  expect(lines[5]).toBe("1");
  expect(lines[6]).toMatch(/^error: systemd passed no credentials/);
  expect(lines[7]).toBe("1");
});

test("a restore to another path leaves the sealed passphrase of the store", async () => {
  const output = await inSystem(`
    hub backup --to $HOME/backups --bundle-to $bundles --service none >/dev/null
    hub rotate --bundle-to $bundles --service none --hub none >/dev/null
    backup=$(ls $HOME/backups/*.db)
    keyid=$(head -c 8 $backup | od -An -tx1 | tr -d ' \\n')
    restore() { program restore $backup --bundle $bundles/clients.$keyid.bundle.age --identity $HOME/key.txt \\
      --to $HOME/elsewhere.db --db $store --config $HOME/config.json --yes "$@" --service none --hub none; }
    before=$(unsealed)
    restore --passphrase-source sealed:$sealed 2>&1 >/dev/null | head -1 || true
    [[ $(unsealed) == "$before" ]] && opens
    restore --passphrase-source sealed:$sealed-elsewhere >/dev/null
    program list-clients --db $HOME/elsewhere.db --passphrase-source sealed:$sealed-elsewhere --quiet | grep -c kitchen
    opens`);
  expect(output.trim().split("\n")).toEqual([
    expect.stringMatching(/^error: another passphrase is sealed in /),
    ...["1", "1", "1"],
  ]);
});

test("what systemd-creds cannot unseal for a moment, or seals wrongly, is not lost", async () => {
  const output = await inSystem(`
    hub backup --to $HOME/backups --bundle-to $bundles --service none >/dev/null
    first=$(unsealed)
    hub rotate --bundle-to $bundles --service none --hub none >/dev/null
    second=$(unsealed)
    mkdir $HOME/bin
    creds() { printf '#!/bin/bash\\n%s\\n' "$1" >$HOME/bin/systemd-creds; chmod 755 $HOME/bin/systemd-creds; }
    real=$(command -v systemd-creds)
    creds "if [[ \\$1 == encrypt ]]; then $real \\"\\$@\\" | head -c 100; else exec $real \\"\\$@\\"; fi"
    PATH=$HOME/bin:$PATH hub rotate --bundle-to $bundles --service none --hub none 2>&1 >/dev/null | head -1 || true
    [[ $(unsealed) == "$second" ]] && opens
    creds "if [[ \\$1 == decrypt && \\\${!#} == - && \\\${@: -2:1} == $sealed ]]; then exit 1; fi; exec $real \\"\\$@\\""
    backup=$(ls $HOME/backups/*.db)
    keyid=$(head -c 8 $backup | od -An -tx1 | tr -d ' \\n')
    PATH=$HOME/bin:$PATH hub restore $backup --bundle $bundles/clients.$keyid.bundle.age --identity $HOME/key.txt \\
      --service none --hub none >/dev/null 2>$HOME/restore.log || true
    grep -c "it is kept as $sealed.unreadable" $HOME/restore.log
    [[ $(unsealed) == "$second" ]] && opens
    creds "if [[ \\$1 == encrypt || ( \\$1 == decrypt && \\\${@: -2:1} == $sealed ) ]]; then exit 1; fi; exec $real \\"\\$@\\""
    PATH=$HOME/bin:$PATH hub restore $backup --bundle $bundles/clients.$keyid.bundle.age --identity $HOME/key.txt \\
      --service none --hub none 2>&1 >/dev/null | grep -c "cannot seal" || true
    [[ $(unsealed) == "$second" ]] && opens
    ls $(dirname $sealed)`);
  expect(output.trim().split("\n")).toEqual([
    expect.stringMatching(/^error: this machine cannot unseal what it has sealed/),
    ...["1", "1", "1", "1", "1", "sealed"],
  ]);
});

test("a new store does not get another store's passphrase, and a bundle import and a rotation keep it", async () => {
  const output = await inSystem(`
    program init --db $HOME/third.db --config $HOME/config.json --passphrase-source sealed:$sealed \\
      --recovery-key-file $HOME/key3.txt 2>&1 >/dev/null | head -1 || true
    second() { program "$@" --db $HOME/second.db --config $HOME/second.json --yes; }
    second init --passphrase-source sealed:$sealed-second --to $HOME/backups2 --bundle-to $bundles \\
      --recovery-key-file $HOME/key2.txt >/dev/null
    keyid=$(head -c 8 $HOME/second.db | od -An -tx1 | tr -d ' \\n')
    second bundle import $bundles/clients.$keyid.bundle.age --passphrase-source sealed:$sealed \\
      --identity $HOME/key2.txt 2>&1 >/dev/null || ls $bundles
    opens
    second list-clients --passphrase-source sealed:$sealed --quiet >/dev/null && echo opens
    # Another store of the settings may be on a disk that is away, with the same passphrase.
    settings() { ${process.execPath} -e 'const f = require("fs"), p = process.env.HOME + "/second.json",
      s = JSON.parse(f.readFileSync(p)); (s.stores ??= {})["/media/away/clients.db"] = { passphrase_source: process.argv[1] };
      f.writeFileSync(p, JSON.stringify(s))' "$1"; }
    settings sealed:$sealed
    second rotate --passphrase-source sealed:$sealed --bundle-to $bundles --service none --hub none >/dev/null
    unsealed | grep -c .
    settings sealed:$sealed-second
    second rotate --passphrase-source sealed:$sealed --bundle-to $bundles --service none --hub none >/dev/null
    unsealed | grep -c .
    opens
    second list-clients --passphrase-source sealed:$sealed --quiet >/dev/null && echo opens
    ${process.execPath} --input-type=module - $HOME/foreign.db <<'NODE'
import { Connection } from "${root}dist/store/connection.js";
import { createSchema } from "${root}dist/store/schema.js";
await using connection = await Connection.open(process.argv[2], { mode: "create" });
await connection.all("PRAGMA key = 'of another program'");
await connection.all("PRAGMA kdf_iter = 64000");
await createSchema(connection, 0);
NODE
    (umask 077; echo "of another program" >$HOME/passphrase)
    foreign() { program "$@" --db $HOME/foreign.db --config $HOME/foreign.json --passphrase-source sealed:$sealed; }
    foreign init --adopt --cipher-settings kdf_iter=64000 --passphrase-file $HOME/passphrase \\
      --bundle-to $bundles --recovery-key-file $HOME/key4.txt --service none --hub none >/dev/null
    foreign list-clients --quiet >/dev/null && echo adopted
    unsealed | grep -c .`);
  expect(output.trim().split("\n")).toEqual([
    expect.stringMatching(/^error: the passphrase in \S+ is that of another store$/),
    expect.stringMatching(/^saved the passphrase source to /),
    ...["1", "opens", "3", "3", "1", "opens", "adopted", "4"],
  ]);
});
