/**
 * The recovery sheet as a printer has it: drawn by a real browser, read back by a real scanner,
 * opened by real age.
 */
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { type Bundle, writeBundle } from "../../src/bundle/bundle.js";
import { readPaper } from "../../src/bundle/paper.js";
import { generateRecoveryKey, type RecoveryKey } from "../../src/bundle/recovery-key.js";
import { renderRecoverySheet } from "../../src/bundle/sheet.js";
import { deleteEntry, getEntry, setEntry } from "../../src/keys/keyring.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Machine } from "../cli/machine.js";
import { onTerminal } from "../cli/terminal.js";
import { exec } from "../service/units.js";
import { temporaryFolder } from "../store/temporary.js";

let machine: Machine;
let passphrase: string;
let identity: string;
let bundle: string;

beforeAll(async () => {
  machine = Machine.in(await mkdtemp(join(tmpdir(), "hivemind-sheet-")));
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  passphrase = (await getEntry(machine.store, "current")) ?? "";
  identity = machine.path("safe", "recovery-key.txt");
  const { document } = await machine.json("bundle", "export");
  bundle = (document.bundle as Bundle).path;
});
afterAll(() => rm(machine.folder, { recursive: true }));

async function print(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await machine.run(["bundle", "print", bundle, ...args]);
  if (code !== 0) throw new Error(stderr);
  return stdout;
}

async function chromium(...args: string[]): Promise<void> {
  const profile = await temporaryFolder();
  await exec("chromium", [
    ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
    ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    ...["--hide-scrollbars", `--user-data-dir=${profile}`, ...args],
  ]);
}

function* orders<Item>(items: readonly Item[]): Generator<Item[]> {
  if (items.length === 0) yield [];
  for (const [index, item] of items.entries()) {
    for (const rest of orders(items.filter((_, other) => other !== index))) yield [item, ...rest];
  }
}

test("the codes on the page, scanned from a picture of it, are a bundle that age opens", async () => {
  const folder = await temporaryFolder();
  await writeFile(join(folder, "sheet.html"), await print());
  await chromium(
    ...["--force-device-scale-factor=2", "--window-size=850,1200"],
    ...[`--screenshot=${folder}/sheet.png`, `file://${folder}/sheet.html`],
  );
  const { stdout } = await exec("zbarimg", ["--quiet", "--xml", join(folder, "sheet.png")]);
  const codes = [...stdout.matchAll(/<!\[CDATA\[([\s\S]*?)\]\]>/g)].map(([, text = ""]) => text);
  expect(codes).toHaveLength(3);
  // The scanner has its own order of things on a picture; a person goes by the numbers below the
  // codes.
  let opened: { passphrase: string } | undefined;
  for (const order of orders(codes)) {
    const scanned = join(folder, "bundle.age");
    await writeFile(scanned, `${order.join("\n")}\n`);
    const answer = await exec("age", ["-d", "-i", identity, scanned]).catch(() => undefined);
    if (answer === undefined) continue;
    opened = JSON.parse(answer.stdout);
    expect(await readFile(scanned, "utf8")).toBe(await readFile(bundle, "utf8"));
  }
  expect(opened?.passphrase).toBe(passphrase);
  await using connection = (
    await openEncrypted(machine.store, opened?.passphrase ?? "", { mode: "readonly" })
  ).connection;
  void connection;
});

/** Returns the numbered lines on the page as they are read from paper. */
async function linesOnPaper(): Promise<string[]> {
  const columns = [...(await print()).matchAll(/<pre>([\s\S]*?)<\/pre>/g)];
  return columns.flatMap(([, text = ""]) => text.replace(/<[^>]+>/g, "").split("\n"));
}

/** A store whose keyring entry was lost. */
async function withoutKeyring(): Promise<void> {
  await deleteEntry(machine.store, "current");
  onTestFinished(() => setEntry(machine.store, "current", passphrase));
}

test("the letters on the page are the bundle, and the sum below is that of its file", async () => {
  const lines = await linesOnPaper();
  const folder = await temporaryFolder();
  const letters = lines.slice(0, -1).map((line) => line.split(" ")[1] ?? "");
  // Programs that decode line by line, such as python3 -m base64, need whole groups of four.
  expect(letters.filter(({ length }) => length % 4 !== 0)).toEqual([]);
  await writeFile(join(folder, "letters"), `${letters.join("\n")}\n`);
  const { stdout } = await exec("sh", [
    "-c",
    `base64 -d ${folder}/letters > ${folder}/bundle.age && age -d -i ${identity} ${folder}/bundle.age`,
  ]);
  expect(JSON.parse(stdout)).toMatchObject({ passphrase });
  expect(readPaper(lines.join("\n"))).toBe(await readFile(bundle, "utf8"));
  const sum = createHash("sha256").update(await readFile(bundle));
  expect(await print()).toContain(sum.digest("hex"));
});

test("lines and checks are as docs/reference/formats.md has them", async () => {
  const lines = await linesOnPaper();
  const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
  const last = lines.at(-1)?.split(" ");
  const letters: string[] = [];
  for (const [index, line] of lines.slice(0, -1).entries()) {
    const [number, text = "", check] = line.split(" ");
    expect(number).toBe(String(index + 1).padStart(2, "0"));
    expect(check).toBe(sha256(`${index + 1} ${text}`).slice(0, 3));
    letters.push(text);
  }
  expect(last).toEqual(["all", `${letters.length}`, sha256(letters.join("")).slice(0, 6)]);
});

test("a mistake in any line of the sheet is found, and its line is named", async () => {
  const lines = await linesOnPaper();
  const read = (changed: readonly string[]) => readPaper(changed.join("\n"));
  for (const [index, line] of lines.slice(0, -1).entries()) {
    const [number, text = "", check] = line.split(" ");
    const at = (index * 7) % text.length;
    const other = text[at] === "x" ? "X" : "x";
    const mistyped = `${number} ${text.slice(0, at)}${other}${text.slice(at + 1)} ${check}`;
    expect(() => read(lines.with(index, mistyped))).toThrow(
      new RegExp(`^line ${index + 1} has a typing mistake`),
    );
  }
  const swapped = lines.with(3, lines[4] ?? "").with(4, lines[3] ?? "");
  expect(() => read(swapped)).toThrow(/^line 4 is expected, but line 5 was typed/);
  expect(() => read(lines.toSpliced(9, 1))).toThrow(/^line 10 is expected/);
  expect(() => read(lines.toSpliced(-2, 1))).toThrow(
    /is missing, or the last line has a typing mistake/,
  );
  expect(() => read(["a secret phrase"])).toThrow(
    /^line 1 is expected, but a line without its number was typed$/,
  );
  expect(() => read(lines.slice(0, 5))).toThrow(/^line 6 is missing/);
  expect(() => read(lines.with(-1, "all 58 000000"))).toThrow(/last line|is expected/);
  expect(() => read(lines.with(2, "03"))).toThrow(/^line 3 needs its number/);
  // Blanks, empty lines and the case of a check do not matter.
  const spaced = lines.map((line) => {
    const [number, text = "", check = ""] = line.split(" ");
    return `  ${number}  ${text.replace(/.{8}/g, "$& ")} ${check.toUpperCase()}\r\n`;
  });
  expect(read(spaced)).toBe(await readFile(bundle, "utf8"));
});

test("typed on a terminal: a mistyped line is named and typed again, and the passphrase is imported", async () => {
  await withoutKeyring();
  const lines = await linesOnPaper();
  const to = join(await temporaryFolder(), "bundle.age");
  const wrong = (lines[6] ?? "").replace(/ (.)/, (_, letter) => (letter === "x" ? " y" : " x"));
  const type = (line: string) => `${line}\r`;
  const { code, screen } = await onTerminal(
    machine,
    ["bundle", "import", "--from-paper", "-o", to, "-i", identity],
    [
      // Several lines at once, as they are pasted.
      ["line 1: ", lines.slice(0, 6).map(type).join("")],
      ["line 7: ", type(wrong)],
      ["line 7 has a typing mistake", type(lines[6] ?? "")],
      ["line 8: ", lines.slice(7).map(type).join("")],
    ],
  );
  expect({ code, screen }).toMatchObject({ code: 0 });
  expect(screen).toContain("Imported the passphrase");
  expect(await getEntry(machine.store, "current")).toBe(passphrase);
  expect(await readFile(to, "utf8")).toBe(await readFile(bundle, "utf8"));
});

test("typed into a file or standard input: the line is named, and nothing is written", async () => {
  await withoutKeyring();
  const lines = await linesOnPaper();
  const folder = await temporaryFolder();
  const [to, typed] = [join(folder, "bundle.age"), join(folder, "typed.txt")];
  const args = ["bundle", "import", "--from-paper", "-o", to, "-i", identity];
  const input = lines.with(11, (lines[11] ?? "").replace(" ", " x")).join("\n");
  const mistyped = await machine.run(args, { input });
  expect(mistyped).toMatchObject({ code: 2, stdout: "" });
  expect(mistyped.stderr).toContain("line 12 has a typing mistake");
  expect(await readdir(folder)).toEqual([]);
  await writeFile(typed, `${lines.join("\n")}\n`);
  const imported = await machine.run([...args.toSpliced(2, 0, typed), "--json"]);
  expect(imported).toMatchObject({ code: 0 });
  expect(JSON.parse(imported.stdout).imported).toMatchObject({ bundle: to, known: false });
  expect(await getEntry(machine.store, "current")).toBe(passphrase);
  // The file of an earlier import is not replaced.
  expect((await machine.run(args, { input: lines.join("\n") })).code).toBe(17);
});

test("on a new machine the typed bundle is kept, and restored with a backup", async () => {
  const folder = await temporaryFolder();
  const to = join(folder, "bundle.age");
  const args = ["bundle", "import", "--from-paper", "-o", to, "-i", identity];
  const { code, stderr } = await machine.run(
    [...args, "--db", join(folder, "data", "clients.db")],
    {
      input: (await linesOnPaper()).join("\n"),
    },
  );
  expect(code).toBe(10);
  expect(stderr).toContain(`the typed bundle is ${to}`);
  expect(stderr).toContain(`restore BACKUP --bundle '${to}' --identity FILE`);
});

test("a wrong recovery key costs no typing: the typed bundle is kept", async () => {
  const folder = await temporaryFolder();
  const [to, other] = [join(folder, "bundle.age"), join(folder, "other.txt")];
  await writeFile(other, (await generateRecoveryKey()).identity);
  const args = ["bundle", "import", "--from-paper", "-o", to, "-i", other];
  const answer = await machine.run(args, { input: (await linesOnPaper()).join("\n") });
  expect(answer.code).toBe(12);
  expect(answer.stderr).toContain(`the typed bundle is ${to}`);
  expect((await machine.run(["bundle", "import", to, "-i", identity])).code).toBe(0);
  expect((await machine.run(["bundle", "import"])).code).toBe(2);
  expect((await machine.run(["bundle", "import", to, "-o", other])).code).toBe(2);
});

test("the letters are larger than 6.7 points", async () => {
  for (const options of [[], ["--identity", identity, "--with-passphrase"]]) {
    const [, size] = /--letter-size: ([\d.]+)mm/.exec(await print(...options)) ?? [];
    expect(Number(size) / 0.3528).toBeGreaterThan(6.7);
  }
});

test("the page is whole in itself, runs nothing, and gives nothing away unless asked", async () => {
  const page = await print("--identity", identity);
  expect(page).not.toMatch(/<script|<link|<img|src=|href=|https?:|url\(|@import/i);
  expect(page).toContain("default-src 'none'");
  expect(page).toContain(`${machine.store} on ${hostname()}`);
  const [, keyId = "none"] = /clients\.([0-9a-f]{16})\./.exec(bundle) ?? [];
  expect(page).toContain(`<code>${keyId}</code>`);
  const secret = (await readFile(identity, "utf8")).match(/AGE-SECRET-KEY-1\w+/)?.[0] ?? "none";
  for (const group of [...passphrase.split("-"), secret]) {
    expect(page.replace(/<pre>[\s\S]*?<\/pre>/g, "")).not.toContain(group);
  }
  const open = await print("--identity", identity, "--with-passphrase");
  for (const group of passphrase.split("-")) expect(open).toContain(`<li>${group}</li>`);
  expect(open).toMatch(/With this sheet alone, anyone can open/);
  expect(open).not.toContain(secret);
});

test("it is one page, of A4 and of Letter, with the passphrase on it", async () => {
  const folder = await temporaryFolder();
  const page = await print("--identity", identity, "--with-passphrase");
  for (const size of ["A4", "Letter"]) {
    await writeFile(join(folder, "sheet.html"), page.replace("@page {", `@page { size: ${size};`));
    await chromium(
      ...["--no-pdf-header-footer", `--print-to-pdf=${folder}/sheet.pdf`],
      `file://${folder}/sheet.html`,
    );
    const pdf = await readFile(join(folder, "sheet.pdf"), "latin1");
    expect(pdf.match(/\/Type \/Page\b(?!s)/g)).toHaveLength(1);
  }
});

test("a file is written once, for its owner alone, and a page with the passphrase is warned of", async () => {
  const to = machine.path("sheet.html");
  const args = ["bundle", "print", bundle, "--output", to];
  const { code, stderr } = await machine.run([...args, "-i", identity, "--with-passphrase"]);
  expect(code).toBe(0);
  expect(stderr).toMatch(/warning: .*remove it/);
  expect(stderr).not.toContain(passphrase);
  expect((await exec("stat", ["-c", "%a", to])).stdout.trim()).toBe("600");
  expect((await machine.run(args)).code).toBe(17);
});

test("the file - is standard output", async () => {
  expect(await print("--output", "-")).toBe(await print());
});

test("what cannot be printed is said, with its exit code", async () => {
  const other = machine.path("other.txt");
  await writeFile(other, (await generateRecoveryKey()).identity);
  await writeFile(machine.path("letter.age"), "Dear reader");
  const cases: [string[], number][] = [
    [[bundle, "--with-passphrase"], 2],
    [[bundle, "-i", other, "--with-passphrase"], 12],
    [[machine.path("nothing.age")], 10],
    [[machine.path("letter.age")], 14],
  ];
  for (const [args, code] of cases) {
    const answer = await machine.run(["bundle", "print", ...args]);
    expect(answer).toMatchObject({ code, stdout: "" });
  }
});

test("odd paths and passphrases are printed as they are", async () => {
  const folder = await temporaryFolder();
  const own = 'two  blanks & <b>"bold"</b>';
  const storePath = join(folder, "<i>&amp;.db");
  const key: RecoveryKey = await generateRecoveryKey();
  await using store = await ClientStore.create(storePath, own);
  const written = await writeBundle({
    ...{
      directory: folder,
      storePath,
      passphrase: own,
      key: store.key,
      recipients: [key.recipient],
    },
  });
  const { readBundle } = await import("../../src/bundle/bundle.js");
  const page = await renderRecoverySheet({
    bundle: written.path,
    store: undefined,
    contents: await readBundle(written.path, { identity: key.identity }),
    withPassphrase: true,
    printedAt: new Date("2026-01-02T03:04:05Z"),
  });
  expect(page).toContain(
    '<p class="own">two  blanks &amp; &lt;b&gt;&quot;bold&quot;&lt;/b&gt;</p>',
  );
  expect(page).toContain("&lt;i&gt;&amp;amp;.db");
  expect(page).toContain("printed 2026-01-02");
});
