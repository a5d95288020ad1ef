/**
 * Runs the longest test files first, so that no worker is left alone with one of them at the end.
 * Vitest itself knows durations only after a run, and sorts by file size before.
 */
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** The files that run for more than about 80 s, the longest first. */
const longest = [
  ...["package/deb", "diagnostics/fixes", "backup/backup", "restore/restore"],
  ...["faults/matrix", "faults/backup-kill", "faults/earlier-journals", "setup/calls"],
  ...["service/containers", "setup/kill", "faults/hub-down", "faults/ways-out"],
  ...["cli/plain-backup", "swap/rotate", "package/npm", "keys/providers", "setup/setup"],
  ...["copies/kills", "copies/remote", "load/load", "docs/guides", "cli/file-kinds"],
].map((name) => `/test/${name}.test.ts`);

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rankOf = ({ moduleId }: TestSpecification) => {
      const rank = longest.findIndex((name) => moduleId.endsWith(name));
      return rank === -1 ? longest.length : rank;
    };
    return (await super.sort(files)).sort((one, other) => rankOf(one) - rankOf(other));
  }
}
