/**
 * The recovery sheet as a printer has it: drawn by a real browser, read back by a real scanner,
 * opened by real age.
 */
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Bundle, writeBundle } from "../../src/bundle/bundle.js";
import { generateRecoveryKey, type RecoveryKey } from "../../src/bundle/recovery-key.js";
import { recoverySheet } from "../../src/bundle/sheet.js";
import { getEntry } from "../../src/keys/keyring.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { Machine } from "../cli/machine.js";
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
}, 120_000);

test("the letters on the page are the bundle, and the sum below is theirs", async () => {
  const page = await print();
  const [left, right] = [...page.matchAll(/<pre>([\s\S]*?)<\/pre>/g)].map(([, text]) => text);
  const text = `${left}\n${right}\n`;
  expect(text).toBe(await readFile(bundle, "utf8"));
  expect(page).toContain(createHash("sha256").update(text).digest("hex"));
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
}, 120_000);

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
  const page = await recoverySheet({
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
