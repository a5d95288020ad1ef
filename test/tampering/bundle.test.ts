/**
 * A bundle of which a byte was changed, or that was cut, is refused or still says the very same:
 * never something else.
 */
import { chmod, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { armor } from "age-encryption";
import { expect, test } from "vitest";
import { readBundle, writeBundle } from "../../src/bundle/bundle.js";
import { generateRecoveryKey } from "../../src/bundle/recovery-key.js";
import { StoreError } from "../../src/errors.js";
import { proving, report } from "../prove-report.js";
import { temporaryFolder } from "../store/temporary.js";
import { inParallel, passphrase, twoBackups } from "./support.js";

async function bundleOf(folder: string, bundlePassphrase?: string) {
  const { store, key } = await twoBackups(folder);
  const { identity, recipient } = await generateRecoveryKey();
  const { path } = await writeBundle({
    directory: folder,
    storePath: store,
    passphrase,
    key,
    recipients: [recipient],
    bundlePassphrase,
  });
  return { path, identity, bytes: await readFile(path) };
}

/** Every nth byte, and every one with PROVE=1. */
const places = (length: number, nth: number) =>
  Array.from({ length }, (_, at) => at).filter((at) => proving || at % nth === 0);

test.each(["armored", "binary"])(
  "bytes of an %s bundle flipped, and it cut and extended",
  async (form) => {
    const folder = await temporaryFolder();
    const { path, identity, bytes } = await bundleOf(folder);
    const original =
      form === "armored" ? bytes : Buffer.from(armor.decode(bytes.toString("latin1")));
    const opener = { identity };
    const plain = await readBundle(path, opener);
    const altered: [string, Buffer][] = [];
    for (const at of places(original.length, 5)) {
      for (const bit of [0x01, 0x80]) {
        const flipped = Buffer.from(original);
        flipped.writeUInt8(flipped.readUInt8(at) ^ bit, at);
        altered.push([`byte ${at} ^ ${bit}`, flipped]);
      }
    }
    for (const length of places(original.length, 23)) {
      altered.push([`cut to ${length}`, original.subarray(0, length)]);
    }
    for (const more of [Buffer.from("x"), Buffer.from([0]), original, original.subarray(0, 100)]) {
      altered.push([`extended by ${more.length}`, Buffer.concat([original, more])]);
    }
    const wrong: string[] = [];
    await inParallel(altered, async ([what, contents], index) => {
      const place = join(folder, `clients.${plain.key_id}.bundle.${index}.age`);
      await writeFile(place, contents);
      try {
        const read = await readBundle(place, opener);
        // The end of a line, say, may be another one: of the armor, not of what is locked.
        if (JSON.stringify(read) !== JSON.stringify(plain))
          wrong.push(`${what}: says something else`);
        if (form === "binary") wrong.push(`${what}: accepted`);
      } catch (error) {
        if (!(error instanceof StoreError)) wrong.push(`${what}: ${error}`);
        else if (!["corrupted", "wrongPassphrase", "usage"].includes(error.kind)) {
          wrong.push(`${what}: ${error.kind}`);
        }
      }
    });
    report(`bundle, ${form}: bytes flipped, cut, extended`, altered.length, wrong.length);
    expect(wrong).toEqual([]);
  },
  900_000,
);

test("bytes of a passphrase bundle flipped", async () => {
  const folder = await temporaryFolder();
  const { path, bytes } = await bundleOf(folder, "horse staple");
  const opener = { passphrase: "horse staple" };
  const plain = await readBundle(path, opener);
  const binary = Buffer.from(armor.decode(bytes.toString("latin1")));
  const wrong: string[] = [];
  // Each try derives a key by scrypt, for most of a second: in the short form one in the header,
  // one in the nonce, one in the payload.
  const payload = binary.indexOf("\n--- ") + 50;
  const tried = proving
    ? Array.from({ length: Math.ceil(binary.length / 40) }, (_, nth) => nth * 40)
    : [payload - 20, payload + 3, binary.length - 40];
  await inParallel(tried, async (at) => {
    const flipped = Buffer.from(binary);
    flipped.writeUInt8(flipped.readUInt8(at) ^ 0x01, at);
    const place = join(folder, `clients.${plain.key_id}.bundle.${at}.age`);
    await writeFile(place, flipped);
    try {
      await readBundle(place, opener);
      wrong.push(`byte ${at}: accepted`);
    } catch (error) {
      if (!(error instanceof StoreError)) wrong.push(`byte ${at}: ${error}`);
    }
  });
  report("bundle with a passphrase: bytes flipped", tried.length, wrong.length);
  expect(wrong).toEqual([]);
}, 900_000);

test("a bundle that was changed or exchanged is not taken for the proven one: a new one is written", async () => {
  const folder = await temporaryFolder();
  const { store, key } = await twoBackups(folder);
  const { recipient } = await generateRecoveryKey();
  const request = { directory: folder, storePath: store, passphrase, key, recipients: [recipient] };
  const { path } = await writeBundle(request);
  expect((await writeBundle(request)).reused).toBe(true);
  const proof = `${path}.proof.json`;
  const [bundle, record] = [await readFile(path), await readFile(proof, "utf8")];

  // Somebody who knows the recipient, from any bundle's settings or from a sheet, and a passphrase
  // of their own.
  const other = await temporaryFolder();
  const theirs = await twoBackups(other);
  const forged = await writeBundle({
    ...{ directory: other, storePath: theirs.store, key: theirs.key },
    ...{ passphrase, recipients: [recipient] },
  });
  const alterations: [string, Buffer, string][] = [
    ["another's bundle under this name", await readFile(forged.path), record],
    [
      "with its own proof",
      await readFile(forged.path),
      await readFile(`${forged.path}.proof.json`, "utf8"),
    ],
    ["a byte changed", Buffer.concat([bundle, Buffer.from("\n")]), record],
    [
      "another recipient in the proof",
      bundle,
      record.replace(/"age1[^"]*"/, `"${"age1".padEnd(62, "q")}"`),
    ],
    ["no proof", bundle, ""],
  ];
  const taken: string[] = [];
  for (const [what, contents, said] of alterations) {
    await writeFile(path, contents);
    await chmod(path, 0o600);
    await writeFile(proof, said);
    if ((await writeBundle(request)).reused) taken.push(what);
  }
  report("bundle or its proof exchanged", alterations.length, taken.length);
  expect(taken).toEqual([]);
}, 900_000);
