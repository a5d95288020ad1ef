/** What a provider's settings mean for backups that run while nobody is at the machine. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { findAutoLock } from "../../src/keys/auto-lock.js";
import { type Provider, unlocksItself } from "../../src/keys/provider.js";
import { temporaryFolder } from "../store/temporary.js";

/** Starts a process with the environment of a provider. */
async function processWith(environment: Record<string, string>): Promise<number> {
  const child: ChildProcess = spawn("sleep", ["60"], {
    env: { PATH: process.env.PATH, ...environment },
    stdio: "ignore",
  });
  onTestFinished(() => {
    child.kill();
  });
  await once(child, "spawn");
  return child.pid ?? 0;
}

async function autoLockOf(kind: Provider["kind"], file: string, text: string) {
  const folder = await temporaryFolder();
  await mkdir(dirname(join(folder, file)), { recursive: true });
  await writeFile(join(folder, file), text);
  return await findAutoLock({
    kind,
    name: kind,
    pid: await processWith({ XDG_CONFIG_HOME: folder }),
  });
}

const kwallet = (text: string) => autoLockOf("kwallet", "kwalletrc", text);
const keepassxc = (text: string) => autoLockOf("keepassxc", "keepassxc/keepassxc.ini", text);

test("a wallet that closes when it is not used, or with the screen", async () => {
  expect(await kwallet("[Wallet]\nClose When Idle=true\nIdle Timeout=25\n")).toEqual({
    behaviour: "closes the wallet after 25 minutes without use",
    fix: "In System Settings, turn off KDE Wallet > Close Wallet > When unused for",
  });
  expect((await kwallet("[Wallet]\nClose When Idle=true\n"))?.behaviour).toContain("10 minutes");
  expect((await kwallet("[Wallet]\r\nClose on Screensaver=true\r\n"))?.behaviour).toBe(
    "closes the wallet when the screen is locked",
  );
  expect(await kwallet("[Wallet]\nClose When Idle=false\n")).toBeUndefined();
  expect(await kwallet("[Other]\nClose When Idle=true\n[Wallet]\n")).toBeUndefined();
});

test("a database of KeePassXC that is locked after a time, or, as installed, with the screen", async () => {
  expect(
    await keepassxc("[Security]\nLockDatabaseIdle=true\nLockDatabaseIdleSeconds=90\n"),
  ).toEqual({
    behaviour: "locks the database after 90 seconds without input",
    fix: "In KeePassXC, turn off Tools > Settings > Security > Timeouts > Lock databases after inactivity of",
  });
  expect((await keepassxc("[General]\n"))?.behaviour).toBe(
    "locks the database when the screen is locked",
  );
  expect(await keepassxc("[Security]\nLockDatabaseScreenLock=false\n")).toBeUndefined();
});

test("the settings are those of the provider's own home; of no other provider any are known", async () => {
  const home = await temporaryFolder();
  await mkdir(join(home, ".config"));
  await writeFile(join(home, ".config/kwalletrc"), "[Wallet]\nClose When Idle=true\n");
  const pid = await processWith({ HOME: home });
  expect(await findAutoLock({ kind: "kwallet", name: "KWallet", pid })).toBeDefined();
  expect(await findAutoLock({ kind: "oo7", name: "oo7", pid })).toBeUndefined();
  expect(await findAutoLock({ kind: "keepassxc", name: "KeePassXC" })).toBeUndefined();
});

test("oo7 unlocks itself when it starts if its unit has the credential", async () => {
  const folder = await temporaryFolder();
  const pid = await processWith({ CREDENTIALS_DIRECTORY: folder });
  const provider = { kind: "oo7", name: "oo7", pid } as const;
  expect(await unlocksItself(provider)).toBe(false);
  await writeFile(join(folder, "oo7.keyring-encryption-password"), "open sesame");
  expect(await unlocksItself(provider)).toBe(true);
  expect(await unlocksItself({ ...provider, kind: "kwallet" })).toBe(false);
});
