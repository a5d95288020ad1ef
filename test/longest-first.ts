/**
 * Runs the longest test files first, so that no worker is left alone with one of them at the end.
 * Vitest itself knows durations only after a run, and sorts by file size before.
 */
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** The files that run for more than about 40 s, the longest first. */
const longest = [
  ...["diagnostics/fixes", "package/deb", "service/containers", "setup/headless"],
  ...["setup/setup", "copies/remote", "docs/guides", "backup/backup", "setup/kill"],
  ...["keys/providers", "migrate/hub-check", "faults/hub-down", "setup/layout"],
  ...["restore/restore", "faults/backup-kill", "faults/matrix", "faults/earlier-journals"],
  ...["databases/command", "setup/undo", "load/load", "copies/fleet", "swap/service"],
  ...["package/npm", "cli/unusable-paths", "faults/ways-out", "setup/calls", "cli/file-kinds"],
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
