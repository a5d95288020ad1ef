/** The projects of compose that root uses. Runs as root, as every test. */
import { execFileSync } from "node:child_process";
import { chmod, chown, lchown, mkdir, rename, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { assertTrusted } from "../../src/service/compose-trust.js";
import { temporaryFolder } from "../store/temporary.js";

const user = 1234;

afterEach(() => vi.unstubAllEnvs());

async function makeProject(): Promise<{ project: string; file: string }> {
  const project = join(await temporaryFolder(), "hub");
  await mkdir(project, { mode: 0o755 });
  const file = join(project, "compose.yaml");
  await writeFile(
    file,
    "x-include: 1\nservices:\n  # include: a comment\n  hub:\n    command: hub --include: x\n",
    {
      mode: 0o644,
    },
  );
  return { project, file };
}

function becomeRootAs(uid: number, gid = uid): void {
  vi.stubEnv("SUDO_UID", `${uid}`);
  vi.stubEnv("SUDO_GID", `${gid}`);
}

/** Lets user 1234 write. */
const letOneUserIn = `
import os, struct, sys
entries = [(1, 7, 0xffffffff), (2, 7, 1234), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 5, 0xffffffff)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(sys.argv[1], "system.posix_acl_access", acl)
`;

test("a project of root, below a sticky directory and through a link, is trusted", async () => {
  const { project } = await makeProject();
  await expect(assertTrusted(project)).resolves.toBeUndefined();
  const link = join(await temporaryFolder(), "link");
  await symlink(project, link);
  await expect(assertTrusted(link)).resolves.toBeUndefined();
});

test("files of the user of sudo are trusted, and those of another user are not", async () => {
  const { project, file } = await makeProject();
  await chown(file, user, user);
  await chown(project, user, user);
  await chmod(project, 0o775);
  await expect(assertTrusted(project)).rejects.toMatchObject({
    kind: "refused",
    message: `user 1234 can change ${project}, and with it what root starts`,
  });
  becomeRootAs(user);
  await expect(assertTrusted(project)).resolves.toBeUndefined();
  // A group of several users has no member's number.
  becomeRootAs(user, 100);
  await chown(project, user, 100);
  await expect(assertTrusted(project)).rejects.toThrow(`other users can change ${project}, and`);
});

test.each([
  {
    what: "a file",
    change: ({ file }: { file: string }) => chown(file, user, 0),
    message: /^user 1234 can change .*\/compose\.yaml, and/,
  },
  {
    what: "a directory that its group can change",
    change: async ({ project }: { project: string }) => {
      await chown(project, 0, user);
      await chmod(project, 0o775);
    },
    message: /^other users can change .*\/hub, and/,
  },
  {
    what: "a directory with an access control list",
    change: async ({ project }: { project: string }) => {
      execFileSync("python3", ["-c", letOneUserIn, project]);
    },
    message: /^other users can change .*\/hub, and/,
  },
  {
    what: "a sticky directory, in which others can create .env",
    change: ({ project }: { project: string }) => chmod(project, 0o1777),
    message: /^other users can change .*\/hub, and/,
  },
  {
    what: ".env",
    change: ({ project }: { project: string }) =>
      writeFile(join(project, ".env"), "").then(() => chmod(join(project, ".env"), 0o666)),
    message: /^other users can change .*\/\.env, and/,
  },
  {
    what: "a file in a directory of another user, behind a link of root",
    change: async ({ file }: { file: string }) => {
      const other = await temporaryFolder();
      await rename(file, join(other, "hub.yaml"));
      await symlink(join(other, "hub.yaml"), file);
      await chown(other, user, user);
    },
    message: /^user 1234 can change .*, and/,
  },
  {
    what: "a link of another user",
    change: async ({ project, file }: { project: string; file: string }) => {
      await rename(file, join(project, "hub.yaml"));
      await symlink("hub.yaml", file);
      await lchown(file, user, user);
    },
    message: /^user 1234 can change .*\/compose\.yaml, and/,
  },
  {
    what: "include",
    change: ({ file }: { file: string }) => writeFile(file, "include: [/srv/hub.yaml]\n"),
    message: /compose\.yaml has include, which may name files of other users$/,
  },
  {
    what: "include after a byte order mark",
    change: ({ file }: { file: string }) => writeFile(file, "\uFEFFinclude: [/srv/hub.yaml]\n"),
    message: /compose\.yaml has include, which may name files of other users$/,
  },
  {
    what: "extends with an anchor",
    change: ({ file }: { file: string }) =>
      writeFile(file, "services:\n  hub:\n    &a extends: {file: /srv/hub.yaml}\n"),
    message: /compose\.yaml has extends, which may name files of other users$/,
  },
  {
    what: "extends",
    change: ({ file }: { file: string }) =>
      writeFile(file, 'services: {hub: {"extends": {file: /srv/hub.yaml}}}\n'),
    message: /compose\.yaml has extends, which may name files of other users$/,
  },
])("$what is refused", async ({ change, message }) => {
  const project = await makeProject();
  await change(project);
  await expect(assertTrusted(project.project)).rejects.toMatchObject({
    kind: "refused",
    message: expect.stringMatching(message),
  });
});
