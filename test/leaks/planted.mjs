// Loaded before the command (node --import). Leaks a secret in the way that PLANTED names, which
// the command must never do. The secret is in the file PLANTED_FROM, because a search would find it
// in the environment.
import { execFileSync, spawnSync } from "node:child_process";
import {
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";

const { PLANTED: how, PLANTED_FROM: from, TMPDIR: folder } = process.env;
const secret = readFileSync(from);
const name = secret.toString("hex");
const path = join(folder, "planted");

const ways = {
  argument: () => execFileSync("/bin/true", [secret]),
  environment: () => execFileSync("/bin/true", [], { env: { SECRET: secret.toString("utf8") } }),
  "argument of a child's child": () =>
    spawnSync("/bin/sh", ["-c", '/bin/true "$(cat "$0")"', from]),
  "standard output": () => writeSync(1, secret),
  "standard error, in base64": () => writeSync(2, `x${secret.toString("base64")}\n`),
  "a file": () => writeFileSync(path, secret),
  "a file that is gone again": () => {
    writeFileSync(path, secret);
    renameSync(path, `${path}2`);
    writeFileSync(`${path}2`, "");
  },
  "a file, in two pieces": () => {
    const file = openSync(path, "w");
    writeSync(file, secret.subarray(0, 9));
    writeSync(file, secret.subarray(9));
  },
  "a file, in UTF-16": () => writeFileSync(path, secret.toString("utf8"), "utf16le"),
  "a file, in hexadecimal digits": () => writeFileSync(path, name.toUpperCase()),
  "a file, in base64 amid other text": () =>
    writeFileSync(
      path,
      Buffer.concat([Buffer.from("it"), secret, Buffer.from("s")]).toString("base64"),
    ),
  "a file, in JSON": () => writeFileSync(path, JSON.stringify({ secret: secret.toString("utf8") })),
  "a file, as Python writes JSON": () =>
    execFileSync("python3", [
      ...["-c", "import json, sys; json.dump(open(sys.argv[1]).read(), open(sys.argv[2], 'w'))"],
      ...[from, path],
    ]),
  "an address": () =>
    writeFileSync(path, `redis://:${encodeURIComponent(secret.toString("utf8"))}@host`),
  "a file's name": () => mkdirSync(join(folder, name)),
  "a link's target": () => symlinkSync(name, path),
  "a socket": () => connect(process.env.PLANTED_SOCKET).end(secret),
};

if (how === "list") process.stdout.write(JSON.stringify(Object.keys(ways)));
else ways[how]();
