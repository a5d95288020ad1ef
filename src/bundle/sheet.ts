/**
 * The recovery sheet: one page on paper that outlives every disk. It holds the bundle, as it is, twice: as QR codes for a
 * camera and as text for somebody who has none; and what to do with it, in steps that need nothing of this project.
 *
 * The page is one HTML file that loads nothing and runs nothing, so that what is on the paper is what is in the file.
 */
import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { armor } from "age-encryption";
import { encode } from "uqr";
import { systemError } from "../errors.js";
import { sha256Hex } from "../fs/hash.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { type BundleContents, type BundleDescription, readBundleFile } from "./bundle.js";

/**
 * Bytes in one QR code at most. With a correction that bears a stain (level M), such a code prints its squares 0.4 mm wide,
 * which a phone reads from paper; the 40-odd lines of a bundle make three.
 */
const bytesInACode = 1000;

export interface SheetRequest {
  /** The bundle's file. */
  readonly bundle: string;
  /** The store it is for, in words, if that is known from elsewhere than the bundle. */
  readonly store: string | undefined;
  /** What is in the bundle, if it was opened. */
  readonly contents?: BundleContents | undefined;
  /** Print the passphrase itself; it is in `contents`. */
  readonly withPassphrase: boolean;
  readonly printedAt: Date;
}

/**
 * The recovery sheet of a bundle, as an HTML page.
 *
 * @throws StoreError `notFound`, `corrupted` if it is no bundle, `io`.
 */
export async function recoverySheet(request: SheetRequest): Promise<string> {
  const { bundle, contents, store, withPassphrase, printedAt } = request;
  const { bytes, description } = await readBundleFile(bundle);
  const text = armor.encode(bytes).trim().replace(/\r\n/g, "\n");
  const codes = splitForCodes(text);
  const written = contents?.created_at ?? (await writtenAt(bundle));
  const facts: [string, string][] = [
    ["Store", store ?? contents?.database ?? "not known: see inside the bundle"],
    ["key_id", contents?.key_id ?? description.key_id ?? "not known: see inside the bundle"],
    [
      "Bundle",
      `${basename(bundle)}, written ${written.slice(0, 10)}, printed ${printedAt.toISOString().slice(0, 10)}`,
    ],
    ["Opens with", opensWith(description)],
  ];
  const parts = [
    `<header><h1>Recovery sheet</h1><p>for the client store of a HiveMind hub, and its backups</p></header>`,
    `<p class="lead">This page holds the passphrase of that store, locked with age. ${
      withPassphrase
        ? "The passphrase itself stands on it as well."
        : `It opens nothing without ${keyWords(description)}: keep that in another place.`
    }</p>`,
    `<dl>${facts.map(([term, words]) => `<dt>${term}</dt><dd>${html(words)}</dd>`).join("")}</dl>`,
    withPassphrase && contents ? passphraseBox(contents.passphrase) : "",
    `<section class="steps"><h2>To get at the data</h2><ol>${steps(description, contents)
      .map((step) => `<li>${step}</li>`)
      .join("")}</ol></section>`,
    `<section><h2>The bundle, in ${codes.length} ${codes.length === 1 ? "code" : "codes"}</h2><div class="codes" style="--width: ${codes.length > 3 ? 44 : 51}mm">${codes
      .map((code, index) => figure(code, index + 1, codes.length))
      .join("")}</div></section>`,
    `<section><h2>The same in letters</h2><div class="letters">${columns(text)
      .map((column) => `<pre>${html(column)}</pre>`)
      .join(
        "",
      )}</div><p class="sum">SHA-256, with a line end after the last line: <code>${sha256Hex(`${text}\n`)}</code></p></section>`,
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Recovery sheet ${html(contents?.key_id ?? description.key_id ?? "")}</title>
<style>${style}</style>
</head>
<body>
${parts.filter(Boolean).join("\n")}
</body>
</html>
`;
}

/** Cuts the text at line ends into as many parts as it needs; joined by line ends again, they are the text. */
function splitForCodes(text: string): string[] {
  const lines = text.split("\n");
  const count = Math.ceil(text.length / bytesInACode);
  const each = Math.ceil(lines.length / count);
  return Array.from({ length: count }, (_, part) =>
    lines.slice(part * each, (part + 1) * each).join("\n"),
  ).filter((part) => part !== "");
}

function keyWords({ opens_with }: BundleDescription): string {
  return opens_with === "recovery key" ? "the recovery key" : "the bundle's own passphrase";
}

function opensWith(description: BundleDescription): string {
  const recipients = description.proof?.recipients ?? [];
  if (description.opens_with === "bundle passphrase" || recipients.length === 0) {
    return keyWords(description);
  }
  return `the recovery key of ${recipients.join(" or ")}`;
}

/** HTML; what is typed is in `code`. */
function steps(description: BundleDescription, contents: BundleContents | undefined): string[] {
  const { key_id, opens_with } = description;
  const code = (text: string) => `<code>${html(text)}</code>`;
  const byKey = opens_with === "recovery key";
  const open = byKey ? "age -d -i recovery-key.txt bundle.age" : "age -d bundle.age";
  const key = byKey ? "-i recovery-key.txt" : "--bundle-passphrase-file FILE";
  return [
    `You need ${keyWords(description)}, a backup, ${code("age")}, and ${code("sqlcipher")}${shellOf(contents?.cipher_compatibility)}`,
    `Scan the codes in their order into one file ${code("bundle.age")}, each on a new line; or type the letters.`,
    `${code(open)} shows the passphrase, and these steps in more words.`,
    `A backup that it opens: ${code("xxd -p -l 8 FILE")} prints ${code(contents?.key_id ?? key_id ?? "its key_id")}. Work on a copy.`,
    `${code("sqlcipher COPY.db")}, then ${code("PRAGMA key = 'PASSPHRASE';")}${compatibility(contents?.cipher_compatibility)} ${code("SELECT client_id, name, api_key FROM clients;")}`,
    `Or put it back: ${code(`hivemind-sqlcipher restore BACKUP --bundle bundle.age ${key}`)}`,
  ];
}

/** Which versions of the shell will do; Debian 12 and Ubuntu 22.04 have one that opens format 3 alone. */
function shellOf(format: CipherCompatibility | undefined): string {
  return format === 3 ? "" : " 4 (Debian 13, Ubuntu 24.04, bookworm-backports)";
}

function compatibility(format: CipherCompatibility | undefined): string {
  const pragma = "<code>PRAGMA cipher_compatibility = 3;</code>";
  if (format === 4) return "";
  return format === 3 ? ` ${pragma}` : ` (for a store of format 3, next: ${pragma})`;
}

function passphraseBox(passphrase: string): string {
  // Nobody's own that only looks alike: its signs could mean something in HTML, and have no check.
  const isGenerated = /^(?:[0-9A-HJKMNP-TV-Z]{5}-){12}[0-9A-HJKMNP-TV-Z]{5}$/.test(passphrase);
  const shown = isGenerated
    ? `<ol class="groups">${passphrase
        .split("-")
        .map((group) => `<li>${group}</li>`)
        .join(
          "",
        )}</ol><p>13 groups, joined by dashes; the last sign of each is its check. There is no I, L, O or U.</p>`
    : `<p class="own">${html(passphrase)}</p><p>Exactly these characters, blanks included.</p>`;
  return `<section class="passphrase"><h2>The passphrase itself</h2>${shown}<p><strong>Whoever reads this sheet needs nothing else to open the store and its backups.</strong></p></section>`;
}

function figure(text: string, number: number, count: number): string {
  const { data, size } = encode(text, { ecc: "M", border: 0 });
  let path = "";
  for (const [y, row] of data.entries()) {
    for (let x = 0; x < size; ) {
      const begin = x;
      while (x < size && row[x]) x++;
      if (x > begin) path += `M${begin} ${y}h${x - begin}v1h${begin - x}z`;
      else x++;
    }
  }
  return `<figure><svg viewBox="0 0 ${size} ${size}" shape-rendering="crispEdges" role="img" aria-label="QR code ${number}"><path d="${path}"/></svg><figcaption>${number} of ${count}</figcaption></figure>`;
}

/** Two columns, to be read one after the other. */
function columns(text: string): string[] {
  const lines = text.split("\n");
  const half = Math.ceil(lines.length / 2);
  return [lines.slice(0, half).join("\n"), lines.slice(half).join("\n")];
}

async function writtenAt(path: string): Promise<string> {
  try {
    return (await stat(path)).mtime.toISOString();
  } catch (error) {
    throw systemError(error, `cannot look at ${path}`);
  }
}

function html(text: string): string {
  const entities: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
  };
  return text.replace(/[&<>"]/g, (sign) => entities[sign] ?? sign);
}

/** Fits one page of A4 and of Letter. Black on white throughout: it may be printed by anything, and copied. */
const style = `
@page { margin: 10mm; }
* { box-sizing: border-box; margin: 0; padding: 0; }
html { color: #000; background: #fff; }
body { width: 188mm; margin: 0 auto; padding: 2mm 0; font: 9pt/1.38 system-ui, "Helvetica Neue", Arial, sans-serif; }
header { display: flex; align-items: baseline; gap: 4mm; border-bottom: 0.6mm solid #000; padding-bottom: 1.5mm; }
h1 { font-size: 17pt; line-height: 1.1; letter-spacing: -0.01em; }
h2 { font-size: 9.5pt; margin: 3.2mm 0 1.2mm; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2mm 4mm; margin-top: 2mm; }
dt { font-weight: 600; }
dd { overflow-wrap: anywhere; }
code, pre, .groups, .own { font-family: "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace; }
code { font-size: 0.88em; overflow-wrap: anywhere; }
ol { padding-left: 5mm; }
li { margin-bottom: 0.6mm; }
.lead { margin-top: 2mm; }
.codes { display: flex; flex-wrap: wrap; gap: 4mm; justify-content: space-between; margin-top: 2mm; }
figure { width: var(--width); text-align: center; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-weight: 600; margin-top: 1mm; font-size: 8.5pt; }
.letters { display: grid; grid-template-columns: 1fr 1fr; gap: 5mm; }
pre { font-size: 6.15pt; line-height: 1.3; }
.sum { margin-top: 1.5mm; font-size: 7.5pt; }
.passphrase { border: 0.5mm solid #000; border-radius: 1.5mm; padding: 0 3mm 2mm; margin-top: 3mm; }
.passphrase h2 { margin-top: 2mm; }
.passphrase p { font-size: 8.5pt; }
.groups { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.5mm 4mm; width: 124mm; font-size: 13pt; line-height: 1.25; font-weight: 600; margin-bottom: 1mm; }
.own { font-size: 12pt; font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
@media screen { body { padding: 11mm; width: 210mm; } }
`;
