/** Decides whether this user may have containers of an engine. */
import { symlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { mayHaveContainers } from "../../src/service/engine.js";
import { temporaryFolder } from "./units.js";

test("a socket of Podman that is used as Docker's has no containers of Docker", () => {
  const directory = temporaryFolder();
  const environment = { HOME: directory, XDG_RUNTIME_DIR: directory };
  const docker = (DOCKER_HOST: string) =>
    mayHaveContainers("docker", { ...environment, DOCKER_HOST });
  writeFileSync(`${directory}/podman.sock`, "");
  symlinkSync(`${directory}/podman.sock`, `${directory}/linked.sock`);
  writeFileSync(`${directory}/docker.sock`, "");
  expect(docker("tcp://machine:2375")).toBe(true);
  expect(docker(`unix://${directory}/docker.sock`)).toBe(true);
  expect(docker(`unix://${directory}/podman.sock`)).toBe(false);
  expect(docker(`unix://${directory}/linked.sock`)).toBe(false);
  expect(mayHaveContainers("docker", environment)).toBe(true);
});
