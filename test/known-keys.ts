/**
 * Lets a program of the tests use the keys that test files have derived. It shares none itself:
 * tests count the calls that change files, and let them fail. The first import of each program,
 * which Node.js may run as it is: hence the ending of the import.
 */
import { deriveOnce } from "./shared-keys.ts";

deriveOnce();
