/** Finds the project of compose of a container by its labels. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { findComposeService } from "../../src/service/compose.js";
import type { ComposeLabels } from "../../src/service/engine.js";
import { temporaryFolder } from "./units.js";

let directory: string;

beforeEach(() => {
  directory = temporaryFolder();
});

const write = (name: string, text = "") => writeFileSync(join(directory, name), text);

const find = (files: string[] = [], changes: Partial<ComposeLabels> = {}) =>
  findComposeService("docker", {
    ...{ project: "hive", directory, files, environmentFiles: [], service: "hub" },
    ...{ isImitated: false, ...changes },
  });

test.each([
  ["compose.yaml", "compose.override.yaml"],
  ["docker-compose.yml", "docker-compose.override.yml"],
])("the override of %s is %s", (name, override) => {
  write(name);
  write(".env", "HIVEMIND_USER=1000\n#COMPOSE_FILE=other.yaml\n");
  const environmentFiles = [join(directory, ".env")];
  expect(find([join(directory, name)], { environmentFiles })).toEqual({
    ...{ engine: "docker", project: "hive", directory, service: "hub" },
    override: join(directory, override),
  });
});

test("a project whose override compose would not read is refused", () => {
  expect(() => find()).toThrow("has no compose file");
  write("compose.yaml");
  expect(() => find([], { isImitated: true })).toThrow("podman-compose has created it");
  expect(() => find([join(directory, "other.yaml")])).toThrow("was given other files");
  const environmentFiles = [join(directory, ".env"), join(directory, "prod.env")];
  expect(() => find([], { environmentFiles })).toThrow(
    `was given other files of variables: ${directory}/prod.env`,
  );
  write(".env", "export COMPOSE_FILE = other.yaml\n");
  expect(() => find()).toThrow(`${directory}/.env sets COMPOSE_FILE`);
  write("compose.yml");
  expect(() => find()).toThrow("has both compose.yaml and compose.yml");
});

test("a project whose .env cannot be read is refused", () => {
  write("compose.yaml");
  mkdirSync(join(directory, ".env"));
  expect(() => find()).toThrow(
    expect.objectContaining({
      kind: "refused",
      message: `cannot read ${directory}/.env: is a directory`,
    }),
  );
});
