/** Finds the project of compose of a container by its labels. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { findComposeService } from "../../src/service/compose.js";
import { temporaryFolder } from "./units.js";

let directory: string;

beforeEach(() => {
  directory = temporaryFolder();
});

const write = (name: string, text = "") => writeFileSync(join(directory, name), text);

const find = (files: string[] = [], isImitated = false) =>
  findComposeService("docker", { project: "hive", directory, files, service: "hub", isImitated });

test.each([
  ["compose.yaml", "compose.override.yaml"],
  ["docker-compose.yml", "docker-compose.override.yml"],
])("the override of %s is %s", (name, override) => {
  write(name);
  write(".env", "HIVEMIND_USER=1000\n#COMPOSE_FILE=other.yaml\n");
  expect(find([join(directory, name)])).toEqual({
    ...{ engine: "docker", project: "hive", directory, service: "hub" },
    override: join(directory, override),
  });
});

test("a project whose override compose would not read is refused", () => {
  expect(() => find()).toThrow("has no compose file");
  write("compose.yaml");
  expect(() => find([], true)).toThrow("podman-compose has created it");
  expect(() => find([join(directory, "other.yaml")])).toThrow("was given other files");
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
