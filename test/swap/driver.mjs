// A minimal command: takes the lock, recovers, and runs an operation of src/swap. Runs from dist/
// as a separate process, which a test may signal or kill.
//
//   OPERATION OPTIONS-AS-JSON   settle STORE   read STORE SOURCE-AS-JSON
//   keep STORE SLOTS-AS-JSON    look STORE     what tests do, in a process new to the keyring
import "../known-keys.ts";
import { journalExists } from "../../dist/operation/journal.js";
import { acquireLock } from "../../dist/operation/lock.js";
import { withInteraction } from "../../dist/process/interaction.js";
import { recover, recoverIfNeeded, withOperation } from "../../dist/recovery/recover.js";

const [, script, operation, argument, more] = process.argv;
const said = { notices: [], questions: [] };
const controller = new AbortController();
const { signal } = controller;
for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => controller.abort());

/** The function of each operation. The paths are literals, so that they can be bundled. */
const operations = {
  encrypt: async () => (await import("../../dist/swap/encrypt.js")).encrypt,
  decrypt: async () => (await import("../../dist/swap/decrypt.js")).decrypt,
  adopt: async () => (await import("../../dist/setup/adopt.js")).adopt,
  rotate: async () => (await import("../../dist/swap/rotate.js")).rotate,
  restore: async () => (await import("../../dist/restore/restore.js")).restore,
  "upgrade-schema": async () => (await import("../../dist/swap/upgrade-schema.js")).upgradeSchema,
  "import-passphrase": async () =>
    (await import("../../dist/setup/import-passphrase.js")).importPassphrase,
};

async function run() {
  if (operation === "settle") return settle(argument);
  if (operation === "read") return read(argument, JSON.parse(more));
  if (operation === "keep") return keep(argument, JSON.parse(more));
  if (operation === "look") return look(argument);
  const {
    storePath,
    yes = true,
    ...options
  } = JSON.parse(argument, (key, value) => (key === "before" ? new Date(value) : value));
  const reporter = {
    notice: (text) => said.notices.push(text),
    detail: (text) => process.stderr.write(`${text}\n`),
    confirm: async (question) => {
      said.questions.push(question);
      if (yes) return;
      const { StoreError } = await import("../../dist/errors.js");
      throw new StoreError("refused", "nothing was changed");
    },
  };
  const common = {
    recoveryCommand: [process.execPath, script, "settle", storePath],
    signal,
    reporter,
    recipientPlan: { notice: undefined, use: (_directory, work) => work(options.recipients) },
  };
  if (operation === "backup") {
    const { backup } = await import("../../dist/backup/backup.js");
    return withOperation(storePath, reporter, (lock) => backup({ lock, ...common, ...options }));
  }
  const work = await operations[operation]();
  return withOperation(storePath, reporter, (lock) => work({ lock, ...common, ...options }));
}

async function open(storePath, source) {
  const { identify } = await import("../../dist/store/cipher.js");
  const { unlock } = await import("../../dist/keys/unlock.js");
  const { Connection } = await import("../../dist/store/connection.js");
  return (await identify(storePath)).format === "plaintext"
    ? Connection.open(storePath, { mode: "readwrite" })
    : (await unlock(storePath, source, { mode: "readwrite" })).connection;
}

/** Recovers, opens and counts, as a reading command does. */
/** Recovers, and fails if the recovery does: commands that only open the store go on. */
async function settle(storePath) {
  if (!(await journalExists(storePath))) return [];
  const lock = await acquireLock(storePath);
  try {
    const { messages, serviceDown, cleanupPending } = await recover(lock);
    const left = [serviceDown, cleanupPending].filter((error) => error !== undefined);
    return [...messages, ...left.map(({ message, hint }) => `${message}\n${hint ?? ""}`.trimEnd())];
  } finally {
    await lock[Symbol.asyncDispose]();
  }
}

async function read(storePath, source) {
  said.notices.push(...(await recoverIfNeeded(storePath)));
  const connection = await open(storePath, source);
  try {
    return await connection.get("SELECT count(*) AS clients FROM clients");
  } finally {
    await connection.close();
  }
}

async function keep(storePath, slots) {
  const { setEntry } = await import("../../dist/keys/keyring.js");
  for (const [slot, secret] of Object.entries(slots)) await setEntry(storePath, slot, secret);
}

async function look(storePath) {
  const { listEntries } = await import("../../dist/keys/keyring.js");
  const connection = await open(storePath, { kind: "keyring" });
  try {
    const rows = await connection.all("SELECT * FROM clients ORDER BY client_id");
    const slots = (await listEntries(storePath)).map(({ slot }) => slot);
    return { rows: rows.map((row) => JSON.stringify(row)), slots };
  } finally {
    await connection.close();
  }
}

try {
  process.stdout.write(JSON.stringify({ result: await withInteraction({ signal }, run), ...said }));
} catch (error) {
  const { kind, message, hint, exitCode = 1, stack } = error;
  if (!kind) process.stderr.write(`${stack}\n`);
  process.stdout.write(JSON.stringify({ error: { kind, message, hint }, ...said }));
  process.exitCode = exitCode;
}
