/**
 * SQL text taken apart as far as must be known before it runs: where a statement ends, and what it may do.
 *
 * SQLite's `query_only` alone does not keep a store as it is: pragmas take effect when they are compiled, even behind
 * EXPLAIN (`EXPLAIN PRAGMA query_only = OFF` switches it off), and VACUUM INTO writes files. So a statement is run only
 * if it is one of those known here, and `query_only` stands behind that.
 */
import { StoreError } from "../errors.js";

export interface Statement {
  /** Without the semicolon at its end. */
  readonly text: string;
  /**
   * `select` answers rows and can be a view, `report` is a pragma that reads or an EXPLAIN, `change` may write.
   */
  readonly kind: "select" | "report" | "change";
}

/** Pragmas that only read, when they are given nothing. */
const readingPragmas = new Set(
  `application_id auto_vacuum busy_timeout cache_size cipher_compatibility cipher_integrity_check
  cipher_page_size cipher_provider cipher_salt cipher_settings cipher_version collation_list compile_options
  data_version database_list encoding foreign_keys freelist_count function_list integrity_check journal_mode kdf_iter
  locking_mode max_page_count page_count page_size pragma_list query_only quick_check schema_version synchronous
  table_list user_version wal_autocheckpoint`.split(/\s+/),
);

/** Pragmas that only read whatever they are given. */
const readingPragmasOf = new Set(
  `foreign_key_list index_info index_list index_xinfo integrity_check quick_check table_info table_list
  table_xinfo`.split(/\s+/),
);

const changing = new Set(
  "INSERT REPLACE UPDATE DELETE CREATE ALTER DROP REINDEX ANALYZE".split(" "),
);

/** What there is another way for, or no way. */
const instead: Record<string, string> = {
  ATTACH: "No other file is opened from here.",
  DETACH: "No other file is opened from here.",
  VACUUM: "For a copy of the store there is: hivemind-sqlcipher backup.",
  BEGIN: "With --write, what is entered at once is one transaction.",
  COMMIT: "With --write, what is entered at once is one transaction.",
  END: "With --write, what is entered at once is one transaction.",
  ROLLBACK: "With --write, what is entered at once is one transaction.",
  SAVEPOINT: "With --write, what is entered at once is one transaction.",
  RELEASE: "With --write, what is entered at once is one transaction.",
};

/**
 * One token after the other, and what is between them: strings, names in quotes, comments, words, single characters;
 * white space and words are SQLite's, to which every character beyond ASCII is a letter, and a byte order mark a space. A
 * doubled quote within quotes makes two tokens of one, side by side, which is all the same here, and nothing is
 * repeated that could be read in two ways: a string of megabytes is read as fast as it is copied.
 */
const token =
  /[ \t\n\f\r\ufeff]+|--[^\n]*(?:\n|$)|\/\*[\s\S]*?(?:\*\/|$)|'[^']*(?:'|$)|"[^"]*(?:"|$)|`[^`]*(?:`|$)|\[[^\]]*(?:\]|$)|[\w$\u0080-\ufefe\uff00-\uffff]+|[\s\S]/g;

const insignificant = /^(?:[ \t\n\f\r\ufeff]|--|\/\*)/;

const closing: Readonly<Record<string, string>> = { "'": "'", '"': '"', "`": "`", "[": "]" };

/** Whether a token is a string, name or comment that lacks its end. */
function isUnfinished(text: string): boolean {
  if (text.startsWith("/*")) return text.length < 4 || !text.endsWith("*/");
  const end = closing[text[0] ?? ""];
  return end !== undefined && (text.length === 1 || !text.endsWith(end));
}

interface Piece {
  text: string;
  tokens: string[];
  ended: boolean;
}

function pieces(sql: string): Piece[] {
  const found: Piece[] = [];
  let piece: Piece = { text: "", tokens: [], ended: false };
  for (const [text] of sql.matchAll(token)) {
    if (text === ";") {
      found.push({ ...piece, ended: true });
      piece = { text: "", tokens: [], ended: false };
      continue;
    }
    piece.text += text;
    if (!insignificant.test(text) || isUnfinished(text)) piece.tokens.push(text);
  }
  found.push(piece);
  return found.filter(({ tokens }) => tokens.length > 0);
}

/** Whether the text ends with a statement's semicolon, or holds no statement at all. */
export function isComplete(sql: string): boolean {
  return pieces(sql).every(({ ended }) => ended);
}

/**
 * The statements in a text.
 *
 * @throws StoreError `refused` for a statement that is never run here, `usage` for text that is not a whole statement.
 */
export function parseStatements(sql: string): Statement[] {
  return pieces(sql).map(({ text, tokens }) => {
    if (isUnfinished(tokens.at(-1) ?? "")) {
      throw new StoreError("usage", "a string, a name or a comment in the statement has no end");
    }
    return { text: text.trim(), kind: kindOf(tokens) };
  });
}

function kindOf(tokens: readonly string[]): Statement["kind"] {
  const words = tokens.map((each) => each.toUpperCase());
  const [first = "", second = ""] = words;
  if (first === "SELECT" || first === "VALUES") return "select";
  if (first === "WITH") return mainVerb(words) === "SELECT" ? "select" : "change";
  if (first === "EXPLAIN") return explained(words);
  if (first === "PRAGMA") return readingPragma(tokens);
  if (first === "CREATE" && words.slice(1, 3).some((word) => /^(TRIGGER|VIRTUAL)$/.test(word))) {
    throw notRun("CREATE TRIGGER and CREATE VIRTUAL TABLE", "The table is HiveMind's.");
  }
  if (changing.has(first)) return "change";
  const what = /^[A-Z]+$/.test(first) ? first : `${first}${second === "" ? "" : " …"}`;
  throw Object.hasOwn(instead, first)
    ? notRun(what, instead[first] ?? "")
    : new StoreError("usage", `"${what}" begins no SQL statement that is known here`);
}

/** What a WITH leads to: the first verb outside parentheses. */
function mainVerb(words: readonly string[]): string | undefined {
  let depth = 0;
  for (const word of words) {
    if (word === "(") depth += 1;
    else if (word === ")") depth -= 1;
    else if (depth > 0) continue;
    else if (word === "SELECT" || word === "VALUES") return "SELECT";
    else if (changing.has(word)) return word;
  }
  return undefined;
}

function explained(words: readonly string[]): "report" {
  const rest = words.slice(words[1] === "QUERY" && words[2] === "PLAN" ? 3 : 1);
  if (/^(SELECT|VALUES|WITH|INSERT|REPLACE|UPDATE|DELETE)$/.test(rest[0] ?? "")) return "report";
  throw notRun("EXPLAIN of anything but a query or a change of rows");
}

function readingPragma(tokens: readonly string[]): "report" {
  const [, ...rest] = tokens.map((each) => each.toLowerCase());
  const named = rest[1] === "." ? rest.slice(2) : rest;
  const [name = "", ...value] = named;
  if (value.length === 0 && (readingPragmas.has(name) || readingPragmasOf.has(name)))
    return "report";
  const inBrackets = value.length === 3 && value[0] === "(" && value[2] === ")";
  if (inBrackets && readingPragmasOf.has(name)) return "report";
  throw notRun(
    `PRAGMA ${name}${value.length > 0 ? " with a value" : ""}`,
    "Only pragmas that read are run.",
  );
}

function notRun(what: string, hint?: string): StoreError {
  return new StoreError("refused", `${what} is not run here`, { hint });
}
