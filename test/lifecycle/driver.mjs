// A command in miniature: takes the lock, settles what was left, and runs one operation of src/lifecycle. It runs from
// dist/ as a process of its own, which a test may signal or kill.
//
//   node driver.mjs OPERATION OPTIONS-AS-JSON      node driver.mjs settle STORE      node driver.mjs read STORE SOURCE
import { settleIfNeeded, withOperation } from "../../dist/lifecycle/settle.js";

const [, script, operation, argument, more] = process.argv;
const said = { notices: [], questions: [] };
const controller = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => controller.abort());

/** The module of each operation, and its function. */
const operations = {
  encrypt: ["encrypt", "encrypt"],
  decrypt: ["decrypt", "decrypt"],
  adopt: ["adopt", "adopt"],
  rotate: ["rotate", "rotate"],
  restore: ["restore", "restore"],
  "upgrade-schema": ["upgrade-schema", "upgradeSchema"],
  "import-passphrase": ["import-passphrase", "importPassphrase"],
};

async function run() {
  if (operation === "settle") return settleIfNeeded(argument);
  if (operation === "read") return read(argument, JSON.parse(more));
  const { storePath, yes = true, ...options } = JSON.parse(argument);
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
    settleCommand: [process.execPath, script, "settle", storePath],
    signal: controller.signal,
    reporter,
  };
  if (operation === "backup") {
    const { backup } = await import("../../dist/backup/backup.js");
    return withOperation(storePath, reporter, (lock) => backup({ lock, ...common, ...options }));
  }
  const [file, name] = operations[operation];
  const work = (await import(`../../dist/lifecycle/${file}.js`))[name];
  return withOperation(storePath, reporter, (lock) => work({ lock, ...common, ...options }));
}

/** What a reading command does: settle, open, count. */
async function read(storePath, source) {
  said.notices.push(...(await settleIfNeeded(storePath)));
  const { identify } = await import("../../dist/store/cipher.js");
  const { unlock } = await import("../../dist/keys/unlock.js");
  const { Connection } = await import("../../dist/store/connection.js");
  const connection =
    (await identify(storePath)).format === "plaintext"
      ? await Connection.open(storePath, { mode: "readwrite" })
      : (await unlock(storePath, source, { mode: "readwrite" })).connection;
  try {
    return await connection.get("SELECT count(*) AS clients FROM clients");
  } finally {
    await connection.close();
  }
}

try {
  process.stdout.write(JSON.stringify({ result: await run(), ...said }));
} catch (error) {
  const { kind, message, hint, exitCode = 1, stack } = error;
  if (!kind) process.stderr.write(`${stack}\n`);
  process.stdout.write(JSON.stringify({ error: { kind, message, hint }, ...said }));
  process.exitCode = exitCode;
}
