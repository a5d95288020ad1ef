// Loaded into the commands that tests run: shares the keys that they derive.
import { writeFileSync } from "node:fs";
import { deriveOnce } from "./shared-keys.ts";

deriveOnce((path, masked) => {
  try {
    writeFileSync(path, masked);
  } catch {
    // Another user's command, or one with another /dev/shm, keeps its keys for itself.
  }
});
