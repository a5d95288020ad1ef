/**
 * Splits SQL text into statements, and determines what each may do before it runs.
 *
 * SQLite's `query_only` does not protect a store: pragmas take effect when they are compiled, even
 * behind EXPLAIN (`EXPLAIN PRAGMA query_only = OFF` switches it off), and VACUUM INTO writes files.
 * So only the statements listed here are run, with `query_only` as a second barrier.
 */
import { StoreError } from "../errors.js";

export interface Statement {
  /** The statement without its final semicolon. */
  readonly text: string;
  /**
   * `select` returns rows and can become a view, `report` is a reading pragma or EXPLAIN, `change`
   * may write.
   */
  readonly kind: "select" | "report" | "change";
}

/** Pragmas that only read, allowed without an argument. */
const readingPragmas = new Set(
  `application_id auto_vacuum busy_timeout cache_size cipher_compatibility cipher_integrity_check
  cipher_page_size cipher_provider cipher_salt cipher_settings cipher_version collation_list compile_options
  data_version database_list encoding foreign_keys freelist_count function_list integrity_check journal_mode kdf_iter
  locking_mode max_page_count page_count page_size pragma_list query_only quick_check schema_version synchronous
  table_list user_version wal_autocheckpoint`.split(/\s+/),
);

/** Pragmas that only read, allowed with or without an argument in parentheses. */
const readingPragmasWithArgument = new Set(
  `foreign_key_list index_info index_list index_xinfo integrity_check quick_check table_info table_list
  table_xinfo`.split(/\s+/),
);

const changing = new Set(
  "INSERT REPLACE UPDATE DELETE CREATE ALTER DROP REINDEX ANALYZE".split(" "),
);

const transactionHint =
  "Leave it out: --write runs all statements of a call, or of an entry at the prompt, in one transaction.";

/** Hints for unsupported statements. */
const instead: Record<string, string> = {
  ATTACH: "Open another store with --db PATH.",
  DETACH: "Open another store with --db PATH.",
  VACUUM: "To copy the store, run hivemind-sqlcipher backup.",
  BEGIN: transactionHint,
  COMMIT: transactionHint,
  END: transactionHint,
  ROLLBACK: transactionHint,
  SAVEPOINT: transactionHint,
  RELEASE: transactionHint,
};

/**
 * Matches each token and the text between tokens: strings, quoted names, comments, words and single
 * characters. As in SQLite, characters beyond ASCII are letters, and a byte order mark is white
 * space.
 *
 * A doubled quote yields two adjacent tokens, which makes no difference here. No two alternatives
 * match the same text, so a string of megabytes takes linear time.
 */
const token =
  /[ \t\n\f\r\ufeff]+|--[^\n]*(?:\n|$)|\/\*[\s\S]*?(?:\*\/|$)|'[^']*(?:'|$)|"[^"]*(?:"|$)|`[^`]*(?:`|$)|\[[^\]]*(?:\]|$)|[\w$\u0080-\ufefe\uff00-\uffff]+|[\s\S]/g;

const insignificant = /^(?:[ \t\n\f\r\ufeff]|--|\/\*)/;

const closing: Readonly<Record<string, string>> = { "'": "'", '"': '"', "`": "`", "[": "]" };

/** Returns whether a token is a string, name or comment without an end. */
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

function splitPieces(sql: string): Piece[] {
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

/** Returns whether every statement in the text ends with a semicolon. */
export function isComplete(sql: string): boolean {
  return splitPieces(sql).every(({ ended }) => ended);
}

/**
 * Splits a text into statements.
 *
 * @throws {@link StoreError} refused - for an unsupported statement
 * @throws {@link StoreError} usage - for an incomplete statement
 */
export function parseStatements(sql: string): Statement[] {
  return splitPieces(sql).map(({ text, tokens }) => {
    if (isUnfinished(tokens.at(-1) ?? "")) {
      throw new StoreError("usage", "the statement has an unterminated string, name or comment");
    }
    return { text: text.trim(), kind: classify(tokens) };
  });
}

function classify(tokens: readonly string[]): Statement["kind"] {
  const upper = tokens.map((each) => each.toUpperCase());
  const [first = "", second = ""] = upper;
  if (first === "SELECT" || first === "VALUES") return "select";
  if (first === "WITH") return findMainVerb(upper) === "SELECT" ? "select" : "change";
  if (first === "EXPLAIN") return classifyExplain(upper);
  if (first === "PRAGMA") return classifyPragma(tokens);
  if (first === "CREATE" && upper.slice(1, 3).some((token) => /^(TRIGGER|VIRTUAL)$/.test(token))) {
    throw unsupportedError(
      "CREATE TRIGGER and CREATE VIRTUAL TABLE",
      "Use plain tables, views and indexes.",
    );
  }
  if (changing.has(first)) return "change";
  const what = /^[A-Z]+$/.test(first) ? first : `${first}${second === "" ? "" : " …"}`;
  throw Object.hasOwn(instead, first)
    ? unsupportedError(what, instead[first] ?? "")
    : new StoreError("usage", `"${what}" is not a supported SQL statement`);
}

/** Returns the first verb outside parentheses, for WITH its own; SELECT for VALUES. */
function findMainVerb(tokens: readonly string[]): string | undefined {
  let depth = 0;
  for (const token of tokens) {
    if (token === "(") depth += 1;
    else if (token === ")") depth -= 1;
    else if (depth > 0) continue;
    else if (token === "SELECT" || token === "VALUES") return "SELECT";
    else if (changing.has(token)) return token;
  }
  return undefined;
}

function classifyExplain(tokens: readonly string[]): "report" {
  const rest = tokens.slice(tokens[1] === "QUERY" && tokens[2] === "PLAN" ? 3 : 1);
  if (/^(SELECT|VALUES|WITH|INSERT|REPLACE|UPDATE|DELETE)$/.test(rest[0] ?? "")) return "report";
  throw unsupportedError("EXPLAIN of anything but a query or a change of rows");
}

function classifyPragma(tokens: readonly string[]): "report" {
  const [, ...rest] = tokens.map((each) => each.toLowerCase());
  const named = rest[1] === "." ? rest.slice(2) : rest;
  const [name = "", ...value] = named;
  const isReadingWithArgument = readingPragmasWithArgument.has(name);
  if (value.length === 0 && (readingPragmas.has(name) || isReadingWithArgument)) return "report";
  const hasParentheses = value.length === 3 && value[0] === "(" && value[2] === ")";
  if (hasParentheses && isReadingWithArgument) return "report";
  throw unsupportedError(
    `PRAGMA ${name}${value.length > 0 ? " with a value" : ""}`,
    "Use a pragma that only reads, with its argument in parentheses.",
  );
}

function unsupportedError(what: string, hint?: string): StoreError {
  return new StoreError("refused", `${what} is not supported`, { hint });
}
