/**
 * The record beside a bundle that it was proven to open its store: `clients.<key_id>.bundle.age.proof.json`.
 *
 * It is sealed with a key from the store's key, so that a later run needs neither the recovery key nor trust in the
 * folder to know that the bundle there is the one that was proven.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { sha256Hex } from "../fs/hash.js";
import { readSmallFile } from "../fs/read-small.js";
import * as z from "../schema.js";
import { hkdfKey, type StoreKey } from "../store/cipher.js";

const format = "hivemind-sqlcipher-bundle-proof";
const version = 1;
const keyInfo = "hivemind-sqlcipher bundle proof";
/** It has some 300 bytes, and some 60 for each recipient. */
const longestProof = 1024 * 1024;

const proofSchema = z.strictObject({
  format: z.literal(format),
  version: z.literal(version),
  /** Of the bundle's file, in hex. */
  sha256: z.string(),
  /** Sorted; none for a passphrase bundle. */
  recipients: z.array(z.string()),
  /** HMAC-SHA256, in hex, of the other fields as JSON with sorted keys and no spaces. */
  mac: z.string(),
});

export type VerificationRecord = z.infer<typeof proofSchema>;

/** The record that a bundle was proven, sealed under the store's key. @param file the bundle, as on the disk. */
export function createVerificationRecord(
  file: Buffer,
  recipients: string[],
  key: StoreKey,
): VerificationRecord {
  const proven = { format, recipients, sha256: sha256Hex(file), version } as const;
  const mac = createHmac("sha256", hkdfKey(key, keyInfo)).update(JSON.stringify(proven));
  return { ...proven, mac: mac.digest("hex") };
}

/** Whether a record says what it should, under the same seal. */
export function isSameVerification(found: VerificationRecord, wanted: VerificationRecord): boolean {
  const mac = Buffer.from(found.mac, "hex");
  const wantedMac = Buffer.from(wanted.mac, "hex");
  return (
    found.sha256 === wanted.sha256 &&
    found.recipients.join() === wanted.recipients.join() &&
    mac.length === wantedMac.length &&
    timingSafeEqual(mac, wantedMac)
  );
}

/** Where a bundle's record is. */
export function verificationRecordPath(bundlePath: string): string {
  return `${bundlePath}.proof.json`;
}

/** A record that is missing or makes no sense proves nothing, which is all there is to say about it. */
export async function readVerificationRecord(
  bundlePath: string,
): Promise<VerificationRecord | undefined> {
  try {
    const { bytes } = await readSmallFile(verificationRecordPath(bundlePath), longestProof);
    return proofSchema.safeParse(JSON.parse(bytes.toString("utf8"))).data;
  } catch {
    return undefined;
  }
}
