/** Decides whether this user may have containers of an engine, and parses its reports. */
import { symlinkSync, writeFileSync } from "node:fs";
import { afterEach, expect, test, vi } from "vitest";
import { mayHaveContainers, parseContainers } from "../../src/service/engine.js";
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

test("the files that compose was given are read from the labels", () => {
  const labels = {
    "com.docker.compose.project": "hive",
    "com.docker.compose.project.working_dir": "/hive",
    "com.docker.compose.project.config_files": "/hive/compose.yaml",
    "com.docker.compose.project.environment_file": "/hive/.env,/hive/prod.env",
    "com.docker.compose.service": "hub",
  };
  const state = { Status: "running", Pid: 1, StartedAt: "2026-01-01T00:00:00Z" };
  const inspected = { Id: "1", Name: "/hub", State: state, Config: { Labels: labels } };
  const [container] = parseContainers("docker", JSON.stringify([{ ...inspected, HostConfig: {} }]));
  expect(container?.compose).toEqual({
    ...{ project: "hive", directory: "/hive", service: "hub", isImitated: false },
    files: ["/hive/compose.yaml"],
    environmentFiles: ["/hive/.env", "/hive/prod.env"],
  });
});
