/**
 * Runs the operator's hooks when an operation begins, succeeds or fails: programs, and pings of a
 * monitoring service with the URL scheme of healthchecks.io.
 *
 * A hook cannot change the operation. The failure of a hook is reported as a notice.
 */
import { unescape as decodePercent } from "node:querystring";
import { setTimeout as delay } from "node:timers/promises";
import { hasCode, StoreError } from "../errors.js";
import { orAbort } from "../process/abort.js";
import { type Outcome, run } from "../process/run.js";
import type { Reporter } from "../reporter.js";

/** The section `hooks` of the settings. */
export interface Hooks {
  /** A program and its arguments, started without a shell before the operation. */
  readonly before?: readonly string[] | undefined;
  readonly success?: readonly string[] | undefined;
  readonly failure?: readonly string[] | undefined;
  /**
   * The URL of a POST: with `/start` at its end before a backup, unchanged after a successful
   * backup, and with `/fail` after a failure of any operation. Often contains a secret.
   */
  readonly ping?: string | undefined;
}

/** The event that starts a hook. Contains no secret. */
export type HookEvent =
  | { readonly event: "before" }
  | { readonly event: "success"; readonly result: unknown }
  | { readonly event: "failure"; readonly error: StoreError };

export interface HookContext {
  /** The command's name. */
  readonly operation: string;
  readonly storePath: string;
  readonly reporter: Reporter;
  /** Stops the hooks. */
  readonly signal: AbortSignal;
}

/** A hook may copy a large file or wait for a disk. */
const programLimitMs = 300_000;

const pingLimitMs = 10_000;
const pingAttempts = 3;

/** The path that a monitoring service expects at the end of the URL. */
const pingPaths = { before: "/start", success: "", failure: "/fail" } as const;

/** Runs the program for an event and pings the URL at the same time. */
export async function runHooks(
  hooks: Hooks,
  event: HookEvent,
  context: HookContext,
): Promise<void> {
  const program = hooks[event.event];
  await Promise.all([
    program && runProgram(program, event, context),
    hooks.ping !== undefined && isPinged(event, context) && ping(hooks.ping, event, context),
  ]);
}

/**
 * Returns whether a monitoring service is notified. It expects a success regularly: the success of
 * a nightly `prune` would hide from it that no backup runs any more.
 */
function isPinged({ event }: HookEvent, { operation }: HookContext): boolean {
  return operation === "backup" || event === "failure";
}

/** Passes the event to the program as JSON, and the program's output to standard error. */
async function runProgram(
  [program = "", ...args]: readonly string[],
  event: HookEvent,
  { operation, storePath, reporter, signal }: HookContext,
): Promise<void> {
  const document = { operation, store: storePath, ...event, ...toErrorDocument(event) };
  const outcome = await run(program, args, {
    timeoutMs: programLimitMs,
    output: "stderr",
    input: `${JSON.stringify(document)}\n`,
    signal,
  });
  if (outcome.code === 0) return;
  reporter.notice(
    `the hook hooks.${event.event} failed: ${program} ${describeFailure(outcome)}; ${operation} is not affected`,
  );
}

function toErrorDocument(event: HookEvent) {
  if (event.event !== "failure") return {};
  const { kind, exitCode: code, message, hint = null } = event.error;
  return { error: { kind, code, message, hint } };
}

function describeFailure({ code, failure, stderr }: Outcome): string {
  if (code !== null) return `exited with code ${code}`;
  if (failure === "timeout") return `timed out after ${programLimitMs / 60_000} minutes`;
  if (failure === "missing") return "does not exist";
  return stderr ? `could not run: ${stderr}` : "was killed";
}

/**
 * Sends the event to a monitoring service. The body contains only the operation and its exit code,
 * because the service runs on another machine.
 */
async function ping(url: string, event: HookEvent, context: HookContext): Promise<void> {
  const { operation, reporter, signal } = context;
  const { target, headers } = parseEndpoint(url);
  target.pathname = target.pathname.replace(/\/$/, "") + pingPaths[event.event];
  const code = event.event === "failure" ? event.error.exitCode : 0;
  const body = event.event === "before" ? { operation } : { operation, exit_code: code };
  let problem = "";
  for (let attempt = 1; attempt <= pingAttempts && !signal.aborted; attempt += 1) {
    if (attempt > 1) await orAbort(delay(attempt * 1000), signal).catch(() => undefined);
    const result = await post(target, headers, JSON.stringify(body), signal);
    if (result.ok) return;
    problem = result.problem;
    if (result.isFinal) break;
  }
  // Name only the origin: the path usually contains a secret that suffices to report a success.
  reporter.notice(`cannot notify ${target.origin} of the ${operation}: ${problem}`);
}

/** Moves the user and the password of a URL into a header, because `fetch` rejects such a URL. */
function parseEndpoint(url: string): { target: URL; headers: Record<string, string> } {
  const target = new URL(url);
  const { username, password } = target;
  if (username === "" && password === "") return { target, headers: {} };
  target.username = "";
  target.password = "";
  const credentials = Buffer.from(`${decodePercent(username)}:${decodePercent(password)}`);
  return { target, headers: { authorization: `Basic ${credentials.toString("base64")}` } };
}

type PostResult = { ok: true } | { ok: false; problem: string; isFinal: boolean };

async function post(
  url: URL,
  headers: Record<string, string>,
  body: string,
  signal: AbortSignal,
): Promise<PostResult> {
  try {
    const response = await fetch(url, {
      method: "POST",
      body,
      headers: {
        ...headers,
        "content-type": "application/json",
        "user-agent": "hivemind-sqlcipher",
      },
      signal: AbortSignal.any([signal, AbortSignal.timeout(pingLimitMs)]),
    });
    await response.body?.cancel();
    if (response.ok) return { ok: true };
    const isRetried = response.status >= 500 || response.status === 429;
    return { ok: false, problem: `HTTP status ${response.status}`, isFinal: !isRetried };
  } catch (error) {
    return { ok: false, problem: describeNetworkError(error), isFinal: false };
  }
}

/**
 * Describes an error of `fetch`, which has the reason in its cause. The text of an unknown error is
 * omitted, because it may contain the URL.
 */
function describeNetworkError(error: unknown): string {
  if (error instanceof StoreError) return error.message;
  const { name, cause = error } = error as Error;
  if (name === "TimeoutError") return `no reply within ${pingLimitMs / 1000} s`;
  if (hasCode(cause, "ENOTFOUND", "EAI_AGAIN")) return "its name cannot be resolved";
  if (hasCode(cause, "ECONNREFUSED")) return "connection refused";
  const { code } = cause as NodeJS.ErrnoException;
  return typeof code === "string" ? `${name} (${code})` : name;
}
