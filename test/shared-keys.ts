/**
 * Shares derived keys between the processes of a test run: the checks, the commands, the tests' own
 * programs and the units open copies of the same stores again and again, and each derivation takes
 * 80 to 200 ms of CPU time.
 *
 * The keys are in files in the memory of the session, masked with a hash of the passphrase: no file
 * contains a key.
 */
import crypto from "node:crypto";
import { readFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import { promisify } from "node:util";

export const sharedDirectory = "/dev/shm/hivemind-test-keys";

const derive = promisify(crypto.pbkdf2);
const derived = new Map<string, Promise<Buffer>>();

/** Lets `pbkdf2` of this process derive each key once, and not if another process has shared it. */
export function deriveOnce(share: (path: string, masked: Buffer) => void = () => {}): void {
  crypto.pbkdf2 = (password, salt, iterations, keyBytes, digest, callback) => {
    const bytes = [password, salt].map((text) => Buffer.from(text as Buffer).toString("hex"));
    const name = [...bytes, iterations, keyBytes, digest].join();
    const path = join(sharedDirectory, hash(name).toString("hex"));
    const mask = hash(`mask ${name}`).subarray(0, keyBytes);
    const deriveAndShare = async () => {
      const key = await derive(password, salt, iterations, keyBytes, digest);
      if (mask.length === keyBytes) share(path, masked(key, mask));
      return key;
    };
    const key = derived.get(name) ?? readShared(path, mask) ?? deriveAndShare();
    derived.set(name, key);
    key.then(
      (known) => callback(null, Buffer.from(known)),
      (error) => callback(error, Buffer.alloc(0)),
    );
  };
  syncBuiltinESMExports();
}

function hash(text: string): Buffer {
  return crypto.createHash("sha512").update(text).digest();
}

function masked(bytes: Buffer, mask: Buffer): Buffer {
  return Buffer.from(bytes.map((byte, index) => byte ^ (mask[index] ?? 0)));
}

function readShared(path: string, mask: Buffer): Promise<Buffer> | undefined {
  try {
    const bytes = readFileSync(path);
    return bytes.length === mask.length ? Promise.resolve(masked(bytes, mask)) : undefined;
  } catch {
    return undefined;
  }
}
