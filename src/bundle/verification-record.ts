/**
 * The verification record of a bundle, `clients.<key_id>.bundle.age.proof.json`. It states that
 * this bundle was opened and that its passphrase opened the store.
 *
 * The record is authenticated with a key derived from the store's key. A later run recognises a
 * verified bundle without the recovery key, and without trust in the directory.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { readSmallFile, sha256Hex } from "../fs/read.js";
import * as z from "../schema.js";
import { deriveHkdfKey, type StoreKey } from "../store/cipher.js";

const format = "hivemind-sqlcipher-bundle-proof";
const version = 1;
const keyInfo = "hivemind-sqlcipher bundle proof";
/** A record has about 300 bytes, and 60 for each recipient. */
const maxRecordBytes = 1024 * 1024;

const recordSchema = z.strictObject({
  format: z.literal(format),
  version: z.literal(version),
  /** Of the bundle's file, in hexadecimal. */
  sha256: z.string(),
  /** Sorted; empty for a bundle with a passphrase. */
  recipients: z.array(z.string()),
  /** HMAC-SHA256, in hexadecimal, of the other fields as JSON with sorted keys and no spaces. */
  mac: z.string(),
});

export type VerificationRecord = z.infer<typeof recordSchema>;

/**
 * Creates the record of a verified bundle, authenticated with the store's key.
 *
 * @param file - the bundle's bytes on disk
 */
export function createVerificationRecord(
  file: Buffer,
  recipients: string[],
  key: StoreKey,
): VerificationRecord {
  const fields = { format, recipients, sha256: sha256Hex(file), version } as const;
  const mac = createHmac("sha256", deriveHkdfKey(key, keyInfo)).update(JSON.stringify(fields));
  return { ...fields, mac: mac.digest("hex") };
}

/** Returns whether two records are of the same bundle and recipients, with the same MAC. */
export function isSameVerification(
  found: VerificationRecord,
  expected: VerificationRecord,
): boolean {
  const mac = Buffer.from(found.mac, "hex");
  const expectedMac = Buffer.from(expected.mac, "hex");
  return (
    found.sha256 === expected.sha256 &&
    found.recipients.join() === expected.recipients.join() &&
    mac.length === expectedMac.length &&
    timingSafeEqual(mac, expectedMac)
  );
}

export function verificationRecordPath(bundlePath: string): string {
  return `${bundlePath}.proof.json`;
}

/** Returns the record, or undefined if it is missing, unreadable or malformed. */
export async function readVerificationRecord(
  bundlePath: string,
): Promise<VerificationRecord | undefined> {
  try {
    const { bytes } = await readSmallFile(verificationRecordPath(bundlePath), maxRecordBytes);
    return recordSchema.safeParse(JSON.parse(bytes.toString("utf8"))).data;
  } catch {
    return undefined;
  }
}
