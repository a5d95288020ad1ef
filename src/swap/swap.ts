/**
 * Puts another file in the store's place: the engine of encrypt, decrypt, rotate and restore.
 *
 *   stage    the new file is created, its passphrase kept, its bundle verified; a rotation fills it
 *            while the service runs (stage.ts). A restore has copied its backup before
 *   verify   the service stops, the store is locked; the new file is filled, compared, synced
 *   commit   the store gets a second name, and the new file its first (commit.ts)
 *   apply    server.json, settings and keyring follow; the service starts; the old file is
 *            removed
 *
 * Each step is journaled before it begins. A failure in this process calls the same recovery as the
 * next command after a kill (recover.ts).
 */
import { randomBytes } from "node:crypto";
import { basename, dirname, join } from "node:path";
import { StoreError } from "../errors.js";
import { stagedName } from "../fs/atomic.js";
import { assertFreeSpace } from "../fs/copy.js";
import { assertMetadataCopyable } from "../fs/metadata.js";
import { assertNotMountPoint } from "../fs/mount.js";
import { lstatIfExists } from "../fs/read.js";
import { passwordIn, readServerJson } from "../hub/server-json.js";
import { resolvePasswordSlot } from "../keys/rotation-plan.js";
import { formatSource } from "../keys/source.js";
import { Journal } from "../operation/journal.js";
import { type OperationFailure, orRecover } from "../operation/recovery-parts.js";
import type { PendingRestart } from "../operation/service.js";
import { baseBudgetMs, reportService, withServiceStopped } from "../operation/window.js";
import { withoutSignal } from "../process/interaction.js";
import { keyIdOf, type Secret } from "../store/cipher.js";
import { fillAndCommit } from "./commit.js";
import type { SwapJournal, SwapStep } from "./journal.js";
import { applyPassphrase } from "./passphrase.js";
import { recoverSwap } from "./recover.js";
import type { SwapOutcome, SwapPlan, SwapRequest } from "./request.js";
import { stage } from "./stage.js";
import { SwapState } from "./state.js";

/**
 * Adds time for large stores, because the swap fails if the restart timer has started the service.
 * A small board with a slow card exports and compares 5 MB/s.
 */
const slowestBytesPerMs = 5_000;
/** The new file may be larger than the old one, and journals need space: 8 MiB. */
const spareBytes = 8 << 20;

/**
 * Replaces the store's file.
 *
 * @throws {@link StoreError} of every kind. Unless the message says otherwise, the store is
 *   unchanged and its service runs if it ran before. If the recovery is incomplete, the message
 *   says so, and the next command continues it.
 */
export async function swap<Key extends Secret, Filled>(
  request: SwapRequest<Key, Filled>,
): Promise<SwapOutcome<Key, Filled>> {
  const { service, recoveryCommand, reporter, signal } = request;
  const size = await assertSwappable(request);
  const state = await beginSwap(request);
  const recover = async (failed: OperationFailure) => (await recoverSwap(state, failed)).error;
  const { key, bundle } = await orRecover(() => stage(request, state), recover);
  const { result: filled, restart } = await withServiceStopped(
    {
      service,
      budgetMs: baseBudgetMs + size / slowestBytesPerMs,
      recoveryCommand,
      reporter,
      signal,
      restartIfUp: true,
      journalStop: (stopped) => state.write("stopping", stopped && { stopped }),
      onArmed: () => state.emitStep("armed"),
      recover,
    },
    async (downtime) => {
      const result = await fillAndCommit(request, state, key, downtime);
      await applyPassphrase(state);
      // A full disk must not keep the service down. Recovery can continue from the previous step.
      await state.write("starting").catch(() => undefined);
      return result;
    },
  );
  if (restart) state.emitStep("started");
  if (restart?.wasUp) {
    const { name } = service.service;
    reporter.notice(`something had started ${name ?? "the service"}, so it was restarted`);
  }
  await withoutSignal(() => state.removeReplaced());
  return { key, filled, bundle, service: await reportService(service, restart, reporter) };
}

/**
 * Begins a swap whose staged file is made before its plan is known, as the copy of a backup is. The
 * caller passes the state to `swap`, or to `recoverSwap` if it fails before that.
 *
 * @param plan.newBytes - the size of the staged file
 * @throws {@link StoreError} refused - if the store's file cannot be replaced
 * @throws {@link StoreError} io - if there is no space for the staged file
 */
export async function beginCopy(
  plan: Pick<SwapPlan, "operation" | "lock" | "newBytes" | "sources">,
  pendingRestart: PendingRestart | undefined,
): Promise<SwapState> {
  const { operation, lock, sources } = plan;
  const { storePath } = lock;
  await assertSwappable(plan);
  const data: SwapJournal = {
    staged: stagedName(storePath),
    aside: null,
    keep_aside: false,
    source: formatSources(sources),
    ...(pendingRestart && { stopped: pendingRestart.stopped }),
  };
  const step = "copying" satisfies SwapStep;
  const journal = await Journal.begin(storePath, operation, step, data, pendingRestart?.journal);
  const state = new SwapState(storePath, journal, data);
  state.emitStep(step);
  return state;
}

/** Returns whether a swap begun by `beginCopy` has changed nothing but its staged file. */
export function isOnlyCopied(state: SwapState): boolean {
  return state.journal.entry.step === ("copying" satisfies SwapStep);
}

/**
 * Checks that the store's file can be replaced, and the space for the new file.
 *
 * @returns the approximate size of the store or of the new file, whichever is larger, in bytes
 */
async function assertSwappable({
  lock: { storePath },
  newBytes = 0,
  begun,
}: Pick<SwapPlan, "lock" | "newBytes" | "begun">): Promise<number> {
  const before = await lstatIfExists(storePath);
  if (before && !before.isFile()) {
    throw new StoreError("refused", `${storePath} is not a regular file`);
  }
  if (before) await assertMetadataCopyable(storePath, before);
  await assertNotMountPoint(storePath);
  const size = Math.max(Number(before?.size ?? 0n), newBytes);
  const hint = "Free some space there. Nothing was changed.";
  const bytes = (begun ? 0 : size) + spareBytes;
  await assertFreeSpace(dirname(storePath), bytes, "the new file", hint);
  return size;
}

/** Journals the plan of the swap. */
async function beginSwap(request: SwapPlan): Promise<SwapState> {
  const { operation, lock, replaced, service, bundle, replacedBundle, begun } = request;
  const { storePath } = lock;
  const { pendingRestart } = service;
  const hidden = `.${basename(storePath)}.${randomBytes(6).toString("hex")}.replaced`;
  const aside = request.keepReplacedAs ?? join(dirname(storePath), hidden);
  const serverJson = await resolveServerJson(request);
  const data: SwapJournal = {
    staged: begun?.data.staged ?? stagedName(storePath),
    aside: replaced.state === "absent" ? null : aside,
    keep_aside: request.keepReplacedAs !== undefined,
    source: formatSources(request.sources),
    ...(request.keyring && { keyring: request.keyring }),
    ...(request.settings && { settings: request.settings }),
    ...(serverJson && { server_json: serverJson }),
    ...(bundle &&
      replacedBundle && {
        replaced_bundle: {
          folder: bundle.directory,
          key_id: keyIdOf(replacedBundle.key.salt),
          made: false,
        },
      }),
    ...(pendingRestart && { stopped: pendingRestart.stopped }),
  };
  const step = "staging" satisfies SwapStep;
  await begun?.journal.write(step, data);
  const journal =
    begun?.journal ??
    (await Journal.begin(storePath, operation, step, data, pendingRestart?.journal));
  return new SwapState(storePath, journal, data);
}

function formatSources({ from, to }: SwapPlan["sources"]): SwapJournal["source"] {
  return { from: formatSource(from), to: formatSource(to) };
}

/** Returns `server.json`'s part of the journal, with the keyring slot for its password. */
async function resolveServerJson({
  serverJson,
  lock,
  sources,
  passphrase,
}: SwapPlan): Promise<SwapJournal["server_json"]> {
  if (!serverJson) return undefined;
  const password = passwordIn(await readServerJson(serverJson.path));
  const previous = await resolvePasswordSlot(lock.storePath, sources.from, password, passphrase);
  return {
    ...serverJson,
    ...(previous !== undefined && { previous }),
    ...(password === undefined && { had_password: false }),
  };
}
