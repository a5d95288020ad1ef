/**
 * Runs the program `rclone`, with the user's own configuration of remotes.
 *
 * The configuration holds the credentials. No credential is ever an argument here: remotes are
 * named, and a remote described in place (`:sftp,host=…:`) is refused.
 */
import { stripVTControlCharacters } from "node:util";
import { type ErrorKind, StoreError } from "../errors.js";
import { throwIfAborted } from "../process/abort.js";
import { currentInteraction } from "../process/interaction.js";
import { type Outcome, run } from "../process/run.js";
import { escapeControlCharacters } from "../text/escape.js";

/**
 * Ends rclone within minutes if the server stalls; a transfer that makes progress has no such
 * limit. Never creates a bucket: without the right to do so, each copy would fail.
 */
const flags = [
  ...["--contimeout", "15s", "--timeout", "60s", "--retries", "2", "--low-level-retries", "3"],
  ...["--log-level", "ERROR", "--ask-password=false", "--s3-no-check-bucket"],
];

/** Time limit of a command: 24 hours, for a large backup on a slow line. */
const timeoutMs = 86_400_000;

/** Characters of rclone's output in an error. A server may send a text of any length. */
const maxQuoted = 300;

/** rclone's exit codes for a missing directory and a missing file. */
const missingCodes: readonly (number | null)[] = [3, 4];

interface Problem {
  readonly pattern: RegExp;
  readonly kind: ErrorKind;
  readonly hint: string;
}

/** Error kinds and hints for rclone's messages. The first matching pattern applies. */
const problems: readonly Problem[] = [
  {
    pattern: /didn't find section in config file/,
    kind: "usage",
    hint: "List the remotes with rclone listremotes, or add this one with rclone config.",
  },
  {
    pattern: /NoSuchBucket/,
    kind: "notFound",
    hint: "Create the bucket first: rclone mkdir REMOTE:BUCKET",
  },
  {
    pattern: /x509|certificate|knownhosts|host key/i,
    kind: "io",
    hint: "The server could not be identified. Check its address and certificate or host key, then the remote with rclone config.",
  },
  {
    pattern:
      /\b40[13]\b|unauthorized|forbidden|permission denied|access.?denied|unable to authenticate|SignatureDoesNotMatch|InvalidAccessKeyId/i,
    kind: "io",
    hint: "Check the remote's credentials and their rights with rclone config.",
  },
  {
    pattern: /\b507\b|insufficient storage|no space left|quota|disk full/i,
    kind: "io",
    hint: "Free some space there: prune removes old backups from a target.",
  },
];

export interface RcloneCall {
  /** For the message: "read the directory". */
  readonly doing: string;
  /** The target or file, as the user writes it. */
  readonly where: string;
  /** The descriptor of the file to write the output to. */
  readonly stdout?: number;
  readonly input?: string;
}

/**
 * Runs a command of rclone.
 *
 * @returns the output
 * @throws {@link StoreError} failed - if rclone is not installed
 * @throws {@link StoreError} usage - if rclone does not know the remote
 * @throws {@link StoreError} notFound - if the directory or file does not exist
 * @throws {@link StoreError} interrupted - if the operation is interrupted
 * @throws {@link StoreError} io - if rclone fails for another reason
 */
export async function runRclone(
  args: readonly string[],
  { doing, where, stdout, input }: RcloneCall,
): Promise<string> {
  const { signal } = currentInteraction();
  throwIfAborted(signal);
  const outcome = await run("rclone", [...args.slice(0, 1), ...flags, ...args.slice(1)], {
    timeoutMs,
    stdout,
    input,
    signal,
  });
  throwIfAborted(signal);
  if (outcome.code === 0) return outcome.stdout;
  throw rcloneError(outcome, `cannot ${doing} ${where}`);
}

function rcloneError({ code, failure, stderr }: Outcome, message: string): StoreError {
  if (failure === "missing") {
    return new StoreError("failed", `${message}: rclone is not installed`, {
      hint: "Install it: sudo apt install rclone, or see https://rclone.org/install/",
    });
  }
  const text = `${message}: ${findLastMessage(stderr) || failure || `rclone exits with ${code}`}`;
  if (missingCodes.includes(code)) return new StoreError("notFound", text);
  const problem = problems.find(({ pattern }) => pattern.test(stderr));
  return new StoreError(problem?.kind ?? "io", text, {
    hint: problem?.hint ?? "Check that the server is reachable: rclone lsf REMOTE:",
  });
}

/** Matches the time before each message of rclone, with the number of the attempt if present. */
const messageStart =
  /^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d (ERROR : Attempt \d+\/\d+ failed with \d+ errors and: )?/;

/**
 * Returns rclone's last message without its time, terminal sequences and request ids. A message
 * about S3 has several lines.
 */
function findLastMessage(stderr: string): string {
  const lines = stripVTControlCharacters(stderr).trim().split("\n");
  // If no line has a time, start is -1, and slice returns the last line.
  const start = lines.findLastIndex((line) => messageStart.test(line));
  const text = lines
    .slice(start)
    .map((line) => line.trim().replace(messageStart, ""))
    .filter((line) => !line.startsWith("status code: "))
    .join(", ")
    .replaceAll(/(\w:\/\/)([^\s"]*)/g, (_, scheme, rest) => scheme + withoutCredentials(rest));
  const short = text.length > maxQuoted ? `${text.slice(0, maxQuoted)}…` : text;
  return escapeControlCharacters(short);
}

/**
 * Returns only the host of a URL: its path or query may be a token, as in a signed or shared link.
 *
 * @param rest - the URL after `//`
 */
function withoutCredentials(rest: string): string {
  return rest.includes("@") ? "…" : rest.replace(/[/?#].*$/, "/…");
}
