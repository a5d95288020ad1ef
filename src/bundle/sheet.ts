/**
 * The recovery sheet: a printed page that outlives every disk. It shows the encrypted bundle as QR
 * codes and as numbered lines of letters, and how to use it without this project.
 *
 * The page is a single HTML file (sheet.html) without scripts and references, so the printout shows
 * the whole file.
 */
import { readFile, stat } from "node:fs/promises";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { armor } from "age-encryption";
import { encode } from "uqr";
import { systemError } from "../errors.js";
import { sha256Hex } from "../fs/read.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { type BundleContents, type BundleDescription, readBundleFile } from "./bundle.js";
import { encodeLetters, type PaperLine, splitIntoLines } from "./paper.js";

/**
 * The maximum number of bytes in a QR code. At correction level M the squares of such a code are
 * printed 0.4 mm wide, which a phone can read from paper. The 40 lines of a bundle take three
 * codes.
 */
const maxCodeBytes = 1000;

export interface SheetRequest {
  readonly bundle: string;
  /** The store and its machine, if known without the bundle. */
  readonly store: string | undefined;
  /** The bundle's contents, if it was opened. */
  readonly contents?: BundleContents | undefined;
  /** Whether to print the passphrase, too. Needs `contents`. */
  readonly withPassphrase: boolean;
  readonly printedAt: Date;
}

/**
 * Returns the recovery sheet of a bundle as an HTML page.
 *
 * @throws {@link StoreError} notFound - if there is no bundle at the path
 * @throws {@link StoreError} corrupted - if the file is not a bundle
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function renderRecoverySheet(request: SheetRequest): Promise<string> {
  const { bundle, contents, store, withPassphrase, printedAt } = request;
  const { bytes, description } = await readBundleFile(bundle);
  const text = armor.encode(bytes).trim().replace(/\r\n/g, "\n");
  const codes = splitForCodes(text);
  const letters = layOutLetters(encodeLetters(bytes), withPassphrase);
  const isOpenedByKey = description.opensWith === "recovery key";
  const keyId = contents?.key_id ?? description.keyId;
  const written = contents?.created_at ?? (await readModifiedAt(bundle));
  const unknown = "unknown: recorded inside the bundle";
  return fillTemplate(await readFile(templatePath(), "utf8"), {
    lead: withPassphrase
      ? "It shows the passphrase itself as well."
      : `It opens nothing without ${openerName(description)}, which must be kept elsewhere.`,
    store: store ?? contents?.database ?? unknown,
    keyId: keyId ?? unknown,
    file: basename(bundle),
    written: written.slice(0, 10),
    printed: printedAt.toISOString().slice(0, 10),
    opener: describeOpener(description),
    passphrase: withPassphrase && contents ? renderPassphrase(contents.passphrase) : "",
    key: openerName(description),
    shellVersion: shellVersion(contents?.cipher_compatibility),
    open: isOpenedByKey ? "age -d -i recovery-key.txt bundle.age" : "age -d bundle.age",
    backupKeyId: keyId ?? "its key_id",
    compatibility: compatibilityCondition(contents?.cipher_compatibility),
    keyOption: isOpenedByKey ? "-i recovery-key.txt" : "--bundle-passphrase-file FILE",
    codeCount: codes.length === 1 ? "one code" : `${codes.length} codes`,
    codeWidth: codes.length > 3 ? "44" : "47",
    codes: codes.map((code, index) => renderCode(code, index + 1, codes.length)).join(""),
    left: letters.left,
    right: letters.right,
    letterSize: letters.fontMm.toFixed(2),
    sha256: sha256Hex(`${text}\n`),
  });
}

/** Returns the template's path. The build copies it next to each compiled copy of this module. */
function templatePath(): string {
  return fileURLToPath(new URL("./sheet.html", import.meta.url));
}

/**
 * Fills a template: `{{name}}` becomes the escaped value, `{{{name}}}` becomes the value as HTML,
 * and `{{#name}}…{{/name}}` stays only if the value is not empty.
 */
function fillTemplate(template: string, values: Readonly<Record<string, string>>): string {
  const value = (name: string) => {
    const text = values[name];
    if (text === undefined) throw new Error(`sheet.html names ${name}, which has no value`);
    return text;
  };
  return template
    .replace(/\{\{#(\w+)\}\}([\s\S]*?)\{\{\/\1\}\}/g, (_, name, body) => (value(name) ? body : ""))
    .replace(/\{\{\{(\w+)\}\}\}|\{\{(\w+)\}\}/g, (_, html, text) =>
      html === undefined ? escapeHtml(value(text)) : value(html),
    );
}

/** Splits the text at line ends. Joining the parts with line ends restores the text. */
function splitForCodes(text: string): string[] {
  const lines = text.split("\n");
  const count = Math.ceil(text.length / maxCodeBytes);
  const linesPerCode = Math.ceil(lines.length / count);
  return Array.from({ length: count }, (_, part) =>
    lines.slice(part * linesPerCode, (part + 1) * linesPerCode).join("\n"),
  ).filter((part) => part !== "");
}

function openerName({ opensWith }: BundleDescription): string {
  return opensWith === "recovery key" ? "the recovery key" : "the bundle's own passphrase";
}

function describeOpener(description: BundleDescription): string {
  const recipients = description.proof?.recipients ?? [];
  if (description.opensWith === "bundle passphrase" || recipients.length === 0) {
    return openerName(description);
  }
  return `the recovery key of ${recipients.join(" or ")}`;
}

/**
 * Returns the required version of SQLCipher's shell. Debian 12 and Ubuntu 22.04 have a shell for
 * format 3 only.
 */
function shellVersion(format: CipherCompatibility | undefined): string {
  return format === 3 ? "" : " 4 (Debian 13, Ubuntu 24.04, bookworm-backports)";
}

/** Returns the text before the compatibility pragma, or "" if the pragma is not needed. */
function compatibilityCondition(format: CipherCompatibility | undefined): string {
  if (format === 4) return "";
  return format === 3 ? "then" : "then, for a store of format 3 only:";
}

function renderPassphrase(passphrase: string): string {
  // Match exactly the generated form. A similar passphrase of a user has no check symbols and may
  // contain special characters of HTML.
  if (!/^(?:[0-9A-HJKMNP-TV-Z]{5}-){12}[0-9A-HJKMNP-TV-Z]{5}$/.test(passphrase)) {
    return `<p class="own">${escapeHtml(passphrase)}</p><p>Exactly these characters, blanks included.</p>`;
  }
  const groups = passphrase.split("-").map((group) => `<li>${group}</li>`);
  return `<ol class="groups">${groups.join("")}</ol><p>13 groups, joined by dashes; the last symbol of each group is its check symbol. I, L, O and U do not occur.</p>`;
}

function renderCode(text: string, number: number, count: number): string {
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

/** The width of a column of letters and the height of all lines, on A4 and on Letter. */
const columnMm = 94;
const lettersMm = { withoutPassphrase: 103, withPassphrase: 80 };
/**
 * The minimum number of letters in a line. Shorter lines have larger letters, but take more lines.
 */
const minLineLength = 40;
/**
 * A multiple of 4, so that each line is complete base64: `python3 -m base64 -d`, named by the
 * README.txt of earlier exports, decodes each line separately.
 */
const lengthStep = 4;
const maxLineLength = 64;
const maxFontMm = 3.2;
/** Width of a character and height of a line, relative to the size of the font. */
const characterWidth = 0.605;
const lineHeight = 1.2;
const groupLength = 8;
/** Width of the space between groups, relative to a character. */
const groupSpace = 0.4;

/** Chooses the largest letters with which the lines fit on the page. */
function layOutLetters(letters: string, withPassphrase: boolean) {
  const heightMm = withPassphrase ? lettersMm.withPassphrase : lettersMm.withoutPassphrase;
  for (let length = minLineLength; ; length += lengthStep) {
    const lines = splitIntoLines(letters, length);
    const half = Math.ceil(lines.length / 2);
    const [first] = lines;
    const width =
      `${first?.label}  ${first?.check}`.length +
      length +
      (Math.ceil(length / groupLength) - 1) * groupSpace;
    const fontMm = Math.min(maxFontMm, columnMm / (characterWidth * width));
    if (half * lineHeight * fontMm > heightMm && length < maxLineLength) continue;
    const [left, right] = [lines.slice(0, half), lines.slice(half)].map((column) =>
      column.map(renderLine).join("\n"),
    );
    return { left: left ?? "", right: right ?? "", fontMm };
  }
}

function renderLine({ label, letters, check }: PaperLine): string {
  const groups = letters.match(new RegExp(`.{1,${groupLength}}`, "g")) ?? [];
  return `${label} ${groups.map((group) => `<span>${escapeHtml(group)}</span>`).join("")} ${check}`;
}

async function readModifiedAt(path: string): Promise<string> {
  try {
    return (await stat(path)).mtime.toISOString();
  } catch (error) {
    throw systemError(error, `cannot inspect ${path}`);
  }
}

function escapeHtml(text: string): string {
  const entities: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
  };
  return text.replace(/[&<>"]/g, (character) => entities[character] ?? character);
}
