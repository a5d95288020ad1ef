/**
 * What somebody can do to a backup who may write to its folder and does not know the passphrase.
 * Every alteration must be refused; and it is kept which check refuses it, as they are not the
 * same: SQLCipher's HMAC is over one page and its number, and cannot see that a page was replaced
 * by its own older state.
 *
 * All of them with PROVE=1; a sample of each kind otherwise.
 */
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { formatManifest, type Manifest, manifestPath } from "../../src/backup/manifest.js";
import { proving, report } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";
import {
  adminsIn,
  inParallel,
  pageSize,
  place,
  refusals,
  sha256Of,
  type TwoBackups,
  twoBackups,
} from "./support.js";

/**
 * Of SQLCipher 4: the last 80 bytes of a page are 16 of IV and 64 of HMAC; the file's first 16 its
 * salt.
 */
const ivAt = pageSize - 80;
const hmacAt = pageSize - 64;

interface Alteration {
  readonly what: string;
  readonly bytes: Buffer;
  /**
   * By what it must be refused even where the manifest is made to fit the file, but for its mac.
   */
  readonly alsoBy?: RegExp;
}

const page = (bytes: Buffer, number: number) =>
  bytes.subarray((number - 1) * pageSize, number * pageSize);

function flipped(bytes: Buffer, at: number): Buffer {
  const altered = Buffer.from(bytes);
  altered.writeUInt8(altered.readUInt8(at) ^ 0x01, at);
  return altered;
}

function withPage(bytes: Buffer, number: number, contents: Buffer): Buffer {
  const altered = Buffer.from(bytes);
  contents.copy(altered, (number - 1) * pageSize);
  return altered;
}

function alterationsOf({ older, newer }: TwoBackups): Record<string, Alteration[]> {
  const { bytes } = newer;
  const numbers = Array.from({ length: bytes.length / pageSize }, (_, index) => index + 1);
  const places = { salt: 3, content: 20, "middle of the content": 2000, IV: ivAt, HMAC: hmacAt };
  const damage = /opens|pages|thrown/;
  return {
    "a bit flipped in each page: content, IV, HMAC": numbers.flatMap((number) =>
      Object.entries(places)
        .filter(([name]) => name !== "salt" || number === 1)
        .map(([name, at]) => ({
          what: `page ${number}, ${name}`,
          bytes: flipped(bytes, (number - 1) * pageSize + at),
          alsoBy: damage,
        })),
    ),
    "each page in the place of each other": numbers.flatMap((one) =>
      numbers
        .filter((other) => other > one)
        .map((other) => ({
          what: `pages ${one} and ${other}`,
          bytes: withPage(
            withPage(bytes, one, page(bytes, other)),
            other,
            Buffer.from(page(bytes, one)),
          ),
          alsoBy: damage,
        })),
    ),
    "each page in its older state": numbers
      .filter((number) => !page(older.bytes, number).equals(page(bytes, number)))
      .map((number) => ({
        what: `page ${number}`,
        bytes: withPage(bytes, number, page(older.bytes, number)),
      })),
    "cut at each page and within it": numbers.flatMap((number) =>
      [0, 1, 512, pageSize - 1].map((more) => {
        const length = (number - 1) * pageSize + more;
        return { what: `${length} bytes`, bytes: bytes.subarray(0, length) };
      }),
    ),
    extended: [
      Buffer.from([0]),
      Buffer.alloc(pageSize),
      page(bytes, 2),
      Buffer.concat([page(bytes, 1), page(bytes, 2)]),
      bytes,
    ].map((more) => ({
      what: `by ${more.length} bytes`,
      bytes: Buffer.concat([bytes, more]),
    })),
    "another backup's file whole": [{ what: "the older one", bytes: older.bytes }],
  };
}

/** Enough of each kind to notice that a check is gone. */
const sample = (alterations: readonly Alteration[]) =>
  proving
    ? alterations
    : alterations.filter((_, index) => index % Math.ceil(alterations.length / 5) === 0);

test("a backup's file that was altered in any way is refused, also with a manifest made to fit", async () => {
  const folder = await temporaryFolder();
  const backups = await twoBackups(folder);
  const { newer } = backups;
  for (const [kind, all] of Object.entries(alterationsOf(backups))) {
    const alterations = sample(all);
    expect(alterations.length, kind).toBeGreaterThan(0);
    const accepted: string[] = [];
    await inParallel(alterations, async ({ what, bytes, alsoBy }, index) => {
      const name = basename(newer.path);
      const fitted = { ...newer.manifest, size: bytes.length, sha256: sha256Of(bytes) };
      const as = async (manifest: Manifest) =>
        refusals(
          await place(join(folder, kind, `${index}`), name, bytes, formatManifest(manifest)),
        );
      const plain = await as(newer.manifest);
      const fit = await as(fitted);
      const isRefused =
        plain.length > 0 &&
        // A file too broken to be opened has no key that could say whether the mac holds.
        fit.some(
          (check) =>
            check === "mac" ||
            check === "opens" ||
            check === "encrypted" ||
            check.startsWith("thrown"),
        ) &&
        (alsoBy === undefined || plain.some((check) => alsoBy.test(check)));
      if (!isRefused) accepted.push(`${what}: ${plain.join()} / ${fit.join()}`);
    });
    report(`backup file: ${kind}`, 2 * alterations.length, accepted.length);
    expect(accepted, kind).toEqual([]);
  }
}, 600_000);

test("one page in its older state is seen by the manifest alone: page for page, all is authentic", async () => {
  const folder = await temporaryFolder();
  const { older, newer } = await twoBackups(folder);
  // The row of client 1, an admin in the older one, and nothing else that differs between pages
  // that fit together.
  const pages = newer.bytes.length / pageSize;
  const found: number[] = [];
  for (let number = 2; number <= pages; number++) {
    if (page(older.bytes, number).equals(page(newer.bytes, number))) continue;
    const bytes = withPage(newer.bytes, number, page(older.bytes, number));
    const path = await place(
      join(folder, `${number}`),
      basename(newer.path),
      bytes,
      formatManifest(newer.manifest),
    );
    const checks = await refusals(path);
    expect(checks).toContain("sha256");
    expect(checks).not.toContain("pages");
    found.push(number);
    if ((await adminsIn(path)).length === 0) continue;
    // So this is what would be restored if nobody looked at the manifest: a client with the rights
    // it had lost.
    expect(await adminsIn(path)).toEqual([1]);
    return;
  }
  throw new Error(`no such page among ${found.join()}`);
});

test("a manifest that was edited, or is another backup's, is refused", async () => {
  const folder = await temporaryFolder();
  const { older, newer } = await twoBackups(folder);
  const text = await readFile(manifestPath(newer.path), "utf8");
  const fields = JSON.parse(text) as Record<string, unknown>;
  const edited: [string, unknown][] = [["another backup's", older.manifest]];
  for (const [name, value] of Object.entries(fields)) {
    const { [name]: _gone, ...without } = fields;
    edited.push([`without ${name}`, without]);
    for (const other of [
      ...[null, "", 0, -1, 1.5, 1e21, true, [], {}, [value], `${value}`, `${value} `],
      ...(typeof value === "number" ? [value + 1, value - 1] : []),
      ...(typeof value === "string" ? [value.toUpperCase(), value.replace(/\d/, "0")] : []),
      ...(name in older.manifest ? [older.manifest[name as keyof Manifest]] : []),
    ]) {
      if (JSON.stringify(other) === JSON.stringify(value)) continue;
      edited.push([`${name} ${JSON.stringify(other)}`, { ...fields, [name]: other }]);
    }
  }
  for (const name of ["__proto__", "constructor", "toJSON", "mac2", ""]) {
    edited.push([`with ${name}`, JSON.parse(text.replace("{", `{${JSON.stringify(name)}: 1,`))]);
  }
  const cases = edited.filter((_, index) => proving || index % 8 === 0);
  const accepted: string[] = [];
  await inParallel(cases, async ([what, contents], index) => {
    const path = await place(
      join(folder, `${index}`),
      basename(newer.path),
      newer.bytes,
      JSON.stringify(contents),
    );
    if ((await refusals(path)).length === 0) accepted.push(what);
  });
  report("manifest: each field edited, mac kept", cases.length, accepted.length);
  expect(accepted).toEqual([]);
}, 600_000);

test("an older backup under a newer one's name is refused, whatever comes along", async () => {
  const folder = await temporaryFolder();
  const { older, newer } = await twoBackups(folder);
  const name = basename(newer.path);
  const manifests: Record<string, Manifest> = {
    "with its manifest": older.manifest,
    "with the newer one's manifest": newer.manifest,
    "with its manifest under the other name": { ...older.manifest, file: name },
    "with a manifest made of both": {
      ...newer.manifest,
      ...{ size: older.manifest.size, sha256: older.manifest.sha256 },
      clients: older.manifest.clients,
    },
    "with the newer date": { ...older.manifest, created_at: newer.manifest.created_at, file: name },
  };
  const accepted: string[] = [];
  for (const [what, manifest] of Object.entries(manifests)) {
    const path = await place(join(folder, what), name, older.bytes, formatManifest(manifest));
    if ((await refusals(path)).length === 0) accepted.push(what);
  }
  const bare = await place(join(folder, "bare"), name, older.bytes, undefined);
  if ((await refusals(bare)).length === 0) accepted.push("with none");
  report("older backup under a newer name", Object.keys(manifests).length + 1, accepted.length);
  expect(accepted).toEqual([]);
});
