/**
 * Derives each key once in the process of a test file. Checks open the same store again and again,
 * and each derivation takes 200 ms of CPU time. Commands run in processes of their own and derive
 * their keys.
 */
import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { promisify } from "node:util";

const derive = promisify(crypto.pbkdf2);
const derived = new Map<string, Promise<Buffer>>();

crypto.pbkdf2 = (password, salt, iterations, keyBytes, digest, callback) => {
  const bytes = [password, salt].map((text) => Buffer.from(text as Buffer).toString("hex"));
  const name = [...bytes, iterations, keyBytes, digest].join();
  const key = derived.get(name) ?? derive(password, salt, iterations, keyBytes, digest);
  derived.set(name, key);
  key.then(
    (known) => callback(null, Buffer.from(known)),
    (error) => callback(error, Buffer.alloc(0)),
  );
};
syncBuiltinESMExports();
