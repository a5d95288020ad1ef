/** A worker thread of the copier: re-encrypts one range of pages for each message. */
import { parentPort, workerData } from "node:worker_threads";
import { type PageRange, PageReencryption } from "../store/reencrypt-pages.js";
import { type CopierFailure, type PlainKeys, toFailure, toStoreKeys } from "./copier-message.js";

/** The reply to a page range: the pages that are not authentic, or why the copy failed. */
export type WorkerReply = { ok: true; damaged: number[] } | { ok: false; error: CopierFailure };

const { from, to } = toStoreKeys(workerData as PlainKeys);
const reencryption = new PageReencryption(from, to);

parentPort?.on("message", (range: PageRange) => {
  let reply: WorkerReply;
  try {
    reply = { ok: true, damaged: reencryption.copy(range) };
  } catch (error) {
    reply = { ok: false, error: toFailure(error) };
  }
  parentPort?.postMessage(reply);
});
