/** Decides whether this user may have containers of an engine. */
import { symlinkSync, writeFileSync } from "node:fs";
import { afterEach, expect, test, vi } from "vitest";
import { mayHaveContainers } from "../../src/service/engine.js";
import { temporaryFolder } from "./units.js";

afterEach(() => vi.unstubAllEnvs());

test("a socket of Podman that is used as Docker's has no containers of Docker", () => {
  const directory = temporaryFolder();
  const docker = (host: string) => {
    vi.stubEnv("DOCKER_HOST", host);
    return mayHaveContainers("docker");
  };
  writeFileSync(`${directory}/podman.sock`, "");
  symlinkSync(`${directory}/podman.sock`, `${directory}/linked.sock`);
  writeFileSync(`${directory}/docker.sock`, "");
  vi.stubEnv("XDG_RUNTIME_DIR", directory);
  expect(docker("tcp://machine:2375")).toBe(true);
  expect(docker(`unix://${directory}/docker.sock`)).toBe(true);
  expect(docker(`unix://${directory}/podman.sock`)).toBe(false);
  expect(docker(`unix://${directory}/linked.sock`)).toBe(false);
  expect(docker("")).toBe(true);
});
