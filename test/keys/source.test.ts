import { execFile, execFileSync } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, lchown, mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { StoreError } from "../../src/errors.js";
import { generatePassphrase } from "../../src/keys/passphrase.js";
import { formatSource, parseSource, readPassphrases } from "../../src/keys/source.js";
import { withInteraction } from "../../src/process/interaction.js";
import { temporaryFolder } from "../store/temporary.js";

let folder: string;
let file: string;

beforeEach(async () => {
  folder = await temporaryFolder();
  file = join(folder, "passphrase");
});

async function read(source: string): Promise<string> {
  const found: string[] = [];
  for await (const { passphrase, generation } of readPassphrases(parseSource(source), "/x.db")) {
    expect(generation).toBe("current");
    found.push(passphrase);
  }
  expect(found).toHaveLength(1);
  return found[0] ?? "";
}

async function errorOf(source: string): Promise<StoreError> {
  const error = await read(source).catch((reason: unknown) => reason);
  if (!(error instanceof StoreError)) throw new Error(`not refused: ${String(error)}`);
  return error;
}

async function put(contents: string | Uint8Array): Promise<void> {
  await writeFile(file, contents, { mode: 0o600 });
}

test.each([
  "keyring",
  "file:/etc/hub/passphrase",
  "command:pass show hub | head -1",
  "credential:hub",
  "sealed:/etc/credstore.encrypted/hub",
])("a source is written as it is read: %s", (text) => {
  expect(formatSource(parseSource(text))).toBe(text);
});

test("a credential without a name has ours, and a file is found from wherever the command runs", () => {
  expect(formatSource(parseSource("credential"))).toBe("credential:hivemind-sqlcipher");
  expect(formatSource(parseSource("sealed"))).toMatch(
    /^sealed:\/\S+\/credstore\.encrypted\/hivemind-sqlcipher$/,
  );
  expect(parseSource("file:here")).toEqual({ kind: "file", path: join(process.cwd(), "here") });
});

test.each([
  "",
  "file",
  "file:",
  "command:  ",
  "credential:",
  "credential:a/b",
  "credential:..",
  "keyring:x",
])("what is no source is wrong usage: %j", (text) => {
  expect(() => parseSource(text)).toThrow(expect.objectContaining({ kind: "usage" }));
});

test("a passphrase given where a source belongs is not repeated", () => {
  expect(() => parseSource("hunter2 and more")).toThrow(
    expect.not.objectContaining({ message: expect.stringContaining("hunter2") }),
  );
});

test.each([
  ["correct 'horse' battery", "correct 'horse' battery"],
  ["with a newline\n", "with a newline"],
  ["from Windows\r\n", "from Windows"],
  ["  blanks stay \t\n", "  blanks stay \t"],
])("a file's passphrase is all of it but one newline: %j", async (contents, expected) => {
  await put(contents);
  expect(await read(`file:${file}`)).toBe(expected);
});

test.each([
  ["\u{feff}päss\u{1f41d}\r\n", "päss\u{1f41d}", "\u{feff}päss\u{1f41d}"],
  ["words\n\n", "words", "words\n"],
  ["words\r\nlogin: hub\r\nurl: example\r\n", "words", "words\r\nlogin: hub\r\nurl: example"],
])(
  "the first line is the passphrase, without byte order mark; the whole text is tried after it: %j",
  async (contents, first, whole) => {
    await put(contents);
    const notices: string[] = [];
    const found = await withInteraction({ notice: (text) => notices.push(text) }, async () => {
      const all: string[] = [];
      for await (const { passphrase } of readPassphrases(parseSource(`file:${file}`), "/x.db")) {
        all.push(passphrase);
      }
      return all;
    });
    expect(found).toEqual([first, whole]);
    expect(notices).toEqual([expect.stringContaining(`${file}: the first line is the passphrase`)]);
    expect(notices.join()).not.toContain("words");
  },
);

test("a generated passphrase on several lines is read as it was made", async () => {
  const passphrase = generatePassphrase();
  await put(`${passphrase.slice(0, 42)}\n${passphrase.slice(42)}\n`);
  expect(await read(`file:${file}`)).toBe(passphrase);
});

test("a generated passphrase that was typed into a file is read as it was made", async () => {
  const passphrase = generatePassphrase();
  await put(`${passphrase.toLowerCase().replaceAll("-", " ")}\n`);
  expect(await read(`file:${file}`)).toBe(passphrase);
});

test.each([0o604, 0o640, 0o620, 0o666])(
  "a file that others may use is refused: %o",
  async (mode) => {
    await put("secret words");
    await chmod(file, mode);
    expect(await errorOf(`file:${file}`)).toMatchObject({
      kind: "refused",
      hint: `Restrict it to its owner: chmod 600 '${file}'`,
    });
  },
);

test("the hint's command works on a path with an apostrophe", async () => {
  file = join(folder, "the owner's passphrase");
  await put("secret words");
  await chmod(file, 0o644);
  const { hint } = await errorOf(`file:${file}`);
  execFileSync("/bin/sh", ["-c", /chmod .*$/.exec(hint ?? "")?.[0] ?? "false"]);
  expect(await read(`file:${file}`)).toBe("secret words");
});

test("a file or a link of another user's is refused, root's are not", async () => {
  await put("secret words");
  await symlink("passphrase", join(folder, "link"));
  expect(await read(`file:${join(folder, "link")}`)).toBe("secret words");
  if (process.geteuid?.() !== 0) return;
  await lchown(join(folder, "link"), 12345, 12345);
  expect(await errorOf(`file:${join(folder, "link")}`)).toMatchObject({ kind: "refused" });
  await chown(file, 12345, 12345);
  expect(await errorOf(`file:${file}`)).toMatchObject({ kind: "refused" });
});

test.each([
  ["nothing", ""],
  ["only a newline", "\n"],
  ["a NUL", "before\0after"],
  ["a raw key", `x'${"ab".repeat(32)}'`],
  ["no text", new Uint8Array([0xff, 0xfe, 0x00])],
  ["far too much", "x".repeat(70_000)],
])("a file that holds %s is refused, and what it holds not repeated", async (_what, contents) => {
  await put(contents);
  const error = await errorOf(`file:${file}`);
  expect(error.kind).toBe("refused");
  expect(error.message).toContain(file);
  expect(error.message).not.toMatch(/before|abab|xxxx/);
});

test("a pipe will do for a file, as a shell makes one of <(command)", async () => {
  const writer = execFile("bash", [
    "-c",
    `mkfifo '${file}' && echo made && echo piped words > '${file}'`,
  ]);
  await once(writer.stdout ?? writer, "data");
  expect(await read(`file:${file}`)).toBe("piped words");
});

test("a file that is not there is a passphrase that is not available; a folder is refused", async () => {
  expect(await errorOf(`file:${file}`)).toMatchObject({
    kind: "passphraseUnavailable",
    message: `no such file or directory: ${file}`,
  });
  await mkdir(file);
  expect(await errorOf(`file:${file}`)).toMatchObject({ kind: "refused" });
});

test("a command's output is the passphrase; it may be anything a shell can do", async () => {
  await put("from the file\n");
  expect(await read(`command:cat '${file}' | tr a-z A-Z`)).toBe("FROM THE FILE");
});

test("a command that fails is named with its exit code, or the signal that ended it", async () => {
  expect(await errorOf("command:echo a secret; exit 7")).toMatchObject({
    kind: "passphraseUnavailable",
    message: "the passphrase command failed with exit code 7",
  });
  expect(await errorOf("command:kill -KILL $$")).toMatchObject({
    kind: "passphraseUnavailable",
    message: expect.stringContaining("was killed by SIGKILL"),
  });
  expect(await errorOf("command:no-such-program-here 2>/dev/null")).toMatchObject({
    kind: "passphraseUnavailable",
    message: expect.stringContaining("exit code 127"),
  });
});

test("a command that prints nothing is refused", async () => {
  expect(await errorOf("command:true")).toMatchObject({
    kind: "refused",
    message: "the passphrase command's output: the passphrase is empty",
  });
});

test("a credential comes from the folder that systemd names, whatever its mode", async () => {
  onTestFinished(() => {
    delete process.env.CREDENTIALS_DIRECTORY;
  });
  process.env.CREDENTIALS_DIRECTORY = folder;
  await writeFile(join(folder, "hivemind-sqlcipher"), "sealed words\n", { mode: 0o440 });
  await writeFile(join(folder, "hub"), "others\n");
  expect(await read("credential")).toBe("sealed words");
  expect(await read("credential:hub")).toBe("others");
  expect(await errorOf("credential:none")).toMatchObject({ kind: "passphraseUnavailable" });
  delete process.env.CREDENTIALS_DIRECTORY;
  expect(await errorOf("credential")).toMatchObject({
    kind: "passphraseUnavailable",
    hint: expect.stringContaining("LoadCredentialEncrypted=hivemind-sqlcipher:"),
  });
});
