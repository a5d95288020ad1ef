/**
 * Recognises the kind of a file by its content. If a user names a wrong file, the error names the
 * file's kind and the right option.
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { type StoreError, wrap } from "../errors.js";
import { decodeText } from "./encoding.js";

export type FileKind = keyof typeof kinds;

interface Kind {
  /** Continues a message: "it is …". */
  readonly name: string;
  /** A hint: the right option or command for the file. */
  readonly use: string;
}

const kinds = {
  identity: { name: "a recovery key", use: "Give a recovery key with --identity FILE." },
  bundle: {
    name: "a passphrase bundle",
    use: "Give a bundle with --bundle FILE, or to a bundle command.",
  },
  "encrypted with a passphrase": {
    name: "encrypted with a passphrase: a bundle or a recovery key",
    use: "Give a bundle with --bundle FILE and --bundle-passphrase-file FILE, or a recovery key with --identity FILE.",
  },
  recipients: {
    name: "a list of age recipients",
    use: "Give each recipient with --recipient age1…; a recipient opens nothing.",
  },
  "ssh key": {
    name: "an SSH key",
    use: "Bundles are encrypted to age keys only: generate one with age-keygen.",
  },
  "encrypted database": {
    name: "an encrypted database",
    use: "Give a store with --db PATH, or a backup to restore or verify.",
  },
  database: {
    name: "an SQLite database that is not encrypted",
    use: "Give a store with --db PATH; hivemind-sqlcipher encrypt encrypts it.",
  },
  manifest: {
    name: "the manifest of a backup",
    use: "Name the backup itself, the .db file next to its manifest.",
  },
  "verification record": {
    name: "the verification record of a bundle",
    use: "Name the bundle itself, the .age file next to its record.",
  },
  "decrypted bundle": {
    name: "a decrypted passphrase bundle",
    use: 'Its field "passphrase" is the passphrase. Give the encrypted bundle with --bundle FILE.',
  },
  settings: {
    name: "a settings file of hivemind-sqlcipher",
    use: "Give a settings file with --config FILE.",
  },
  "server.json": {
    name: "a hub's server.json",
    use: "The hub's settings are read from $XDG_CONFIG_HOME/hivemind-core/server.json.",
  },
  clients: {
    name: "a list of clients",
    use: "Import clients with hivemind-sqlcipher import-clients FILE.",
  },
  "recovery sheet": {
    name: "an HTML page, such as a recovery sheet",
    use: "Scan the sheet's codes into a file, in their order: that is the bundle.",
  },
  "raw key": {
    name: "a raw key of SQLCipher",
    use: "A raw key is not a passphrase. Open the store with sqlcipher and export it.",
  },
  archive: { name: "a compressed archive", use: "Unpack the archive first." },
  empty: { name: "empty", use: "Name another file." },
  passphrase: {
    name: "text, perhaps a passphrase",
    use: "Give a passphrase with --passphrase-file FILE.",
  },
} as const satisfies Record<string, Kind>;

/** Contains the header of every kind, and most files other than databases as a whole. */
const maxBytesRead = 64 * 1024;
/** SQLite's smallest page. */
const smallestPage = 512;
const plaintextHeader = "SQLite format 3\0";
const ageHeader = "age-encryption.org/v1\n";
const ageArmor = "-----BEGIN AGE ENCRYPTED FILE-----";
/** A text of more lines is not a passphrase. */
const maxPassphraseLines = 5;

/** The values of `format` in this project's JSON files. */
const jsonFormats: ReadonlyMap<string, FileKind> = new Map([
  ["hivemind-sqlcipher backup", "manifest"],
  ["hivemind-sqlcipher-bundle-proof", "verification record"],
  ["hivemind-sqlcipher-bundle", "decrypted bundle"],
]);
const settingsKeys = ["store", "stores", "passphrase_source", "recipients", "backup", "keep"];
const serverKeys = ["database", "network_protocol", "agent_protocol", "binary_protocol"];

/**
 * Returns the kind of a file's content, or undefined if it is unknown.
 *
 * @param bytes - the file's first bytes
 * @param size - the file's size; default: the number of `bytes`
 */
export function recogniseContent(bytes: Uint8Array, size = bytes.length): FileKind | undefined {
  if (size === 0) return "empty";
  const head = Buffer.from(bytes);
  const latin = head.toString("latin1");
  if (latin.startsWith(plaintextHeader)) return "database";
  if (latin.startsWith("\x1f\x8b") || latin.startsWith("PK\x03\x04")) return "archive";
  if (latin.startsWith(ageHeader)) return recogniseAge(latin);
  if (latin.trimStart().startsWith(ageArmor)) return recogniseAge(removeArmor(latin));
  const text = decodeIfText(head, size > bytes.length);
  if (text !== undefined) return recogniseText(text, size > bytes.length);
  return size >= smallestPage && size % smallestPage === 0 ? "encrypted database" : undefined;
}

/**
 * Returns the kind of a file, or undefined if it is unknown or cannot be read.
 *
 * Must not be called for a store that is open in this process: closing any descriptor of its file
 * drops SQLite's locks on it.
 */
export async function recogniseFile(path: string): Promise<FileKind | undefined> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = await file.stat();
    if (!stats.isFile()) return undefined;
    const buffer = Buffer.alloc(Math.min(stats.size, maxBytesRead));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    return recogniseContent(buffer.subarray(0, bytesRead), stats.size);
  } catch {
    return undefined;
  }
}

/**
 * Returns the error with the kind of the file and a hint on what the file is for.
 *
 * @param expected - the kinds accepted by the reader, for which the error stays unchanged
 */
export function withFileKind(
  error: StoreError,
  kind: FileKind | undefined,
  expected: readonly FileKind[],
): StoreError {
  if (kind === undefined || expected.includes(kind)) return error;
  const { name, use } = kinds[kind];
  return wrap(error, { message: `${error.message}; it is ${name}`, hint: use });
}

function recogniseAge(text: string): FileKind {
  const header = text.split("\n--- ")[0] ?? "";
  return header.includes("\n-> scrypt ") ? "encrypted with a passphrase" : "bundle";
}

function removeArmor(text: string): string {
  const body = text.slice(text.indexOf(ageArmor) + ageArmor.length).split("-----END")[0] ?? "";
  return Buffer.from(body, "base64").toString("latin1");
}

/** Returns the text without a byte order mark, or undefined if the bytes are not text. */
function decodeIfText(bytes: Buffer, isCut: boolean): string | undefined {
  try {
    const text = decodeText(bytes, { isCut }).replace(/^\ufeff/, "");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they tell text from other bytes
    return /[\0-\x08\x0e-\x1a]/.test(text) ? undefined : text;
  } catch {
    return undefined;
  }
}

function recogniseText(text: string, isCut: boolean): FileKind | undefined {
  const lines = text.split(/\r\n|[\r\n]/).map((line) => line.trim());
  const contents = lines.filter((line) => line !== "" && !/^(?:#|\/\/)/.test(line));
  const [first = ""] = contents;
  if (contents.some((line) => /^AGE-(?:SECRET-KEY|PLUGIN)-/i.test(line))) return "identity";
  if (first !== "" && contents.every((line) => /^age1[a-z0-9]+$/i.test(line))) return "recipients";
  if (/^-----BEGIN [A-Z ]*PRIVATE KEY-----$/.test(first) || /^ssh-\S+ /.test(first)) {
    return "ssh key";
  }
  if (/^<(?:!doctype html|html)/i.test(first)) return "recovery sheet";
  if (/^[[{]/.test(first)) return recogniseJson(text, isCut);
  if (isCsvHeader(first)) return "clients";
  if (/^x'(?:[0-9a-f]{64}|[0-9a-f]{96})'$/i.test(first)) return "raw key";
  return contents.length > 0 && contents.length <= maxPassphraseLines ? "passphrase" : undefined;
}

function isCsvHeader(line: string): boolean {
  const columns = line.split(/[,;\t|]/).map((column) => column.replaceAll('"', "").trim());
  return columns.includes("client_id") && columns.length > 2;
}

function recogniseJson(text: string, isCut: boolean): FileKind | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The text is cut off, or is a hub's server.json with comments.
    if (serverKeys.some((key) => text.includes(`"${key}"`))) return "server.json";
    return isCut && /"(?:api_key|client_id)"\s*:/.test(text) ? "clients" : undefined;
  }
  if (Array.isArray(json)) return isClient(json[0]) ? "clients" : undefined;
  if (typeof json !== "object" || json === null) return undefined;
  const fields = json as Record<string, unknown>;
  const format = jsonFormats.get(String(fields.format));
  if (format !== undefined) return format;
  if (isClient(Object.values(fields)[0])) return "clients";
  const keys = Object.keys(fields);
  if (keys.some((key) => serverKeys.includes(key))) return "server.json";
  return keys.length > 0 && keys.every((key) => settingsKeys.includes(key))
    ? "settings"
    : undefined;
}

function isClient(value: unknown): boolean {
  return typeof value === "object" && value !== null && "api_key" in value;
}
