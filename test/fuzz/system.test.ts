/** What the system says: systemd, the kernel, and SQLite's log. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll } from "vitest";
import { parseLocks } from "../../src/process/holders.js";
import { parseLimitMs, parseProperties } from "../../src/service/properties.js";
import { readWal } from "../../src/store/wal.js";
import { campaign } from "./campaign.js";
import { bytesOf, wildText } from "./inputs.js";

const folder = mkdtempSync(join(tmpdir(), "hivemind-fuzz-"));
afterAll(() => rmSync(folder, { recursive: true }));

const unit = fc.record({
  Id: fc.constantFrom("hub.service", "a\\x2db.service", "x@y.socket"),
  ActiveState: fc.constantFrom("active", "inactive", "failed"),
  ControlGroup: fc.constantFrom("", "/user.slice/hub=1"),
  script: fc.option(
    fc.array(
      fc.oneof(
        wildText,
        fc.constantFrom("Id=other.service", "", "ActiveState=active", "x() {", " }"),
      ),
      {
        maxLength: 5,
      },
    ),
    { nil: undefined },
  ),
});

campaign("a unit's properties are its own, whatever is in its commands", {
  what: "systemctl show",
  share: 30,
  inputs: fc.array(unit, { minLength: 1, maxLength: 4 }),
  holds(units) {
    const blocks = units.map(({ script, ...properties }) => {
      const lines = Object.entries(properties).map(([name, value]) => `${name}=${value}`);
      const command = script?.join("\n").replaceAll("\r", "") ?? "";
      const exec = `ExecStop={ path=/bin/sh ; argv[]=/bin/sh -c ${command} ; ignore_errors=no ; status=0/0 }`;
      return [...(script ? [exec] : []), ...lines].join("\n");
    });
    const parsed = parseProperties(`${blocks.join("\n\n")}\n`);
    assert.deepEqual(
      parsed.map(({ Id, ActiveState, ControlGroup, ExecStop }) => ({
        Id,
        ActiveState,
        ControlGroup,
        stops: ExecStop !== undefined,
      })),
      units.map(({ Id, ActiveState, ControlGroup, script }) => ({
        Id,
        ActiveState,
        ControlGroup,
        stops: script !== undefined,
      })),
    );
  },
});

campaign("a time span is a time, and never longer than is waited", {
  what: "systemd's time spans, and harmed output",
  share: 30,
  inputs: fc.oneof(
    fc
      .array(
        fc.constantFrom(
          "1",
          "90",
          "2.5",
          "1.2.3",
          "s",
          "ms",
          "min ",
          " ",
          "y",
          "infinity",
          "99999999999",
        ),
      )
      .map((all) => all.join("")),
    bytesOf(
      fc.constantFrom(
        "1min 30s",
        "infinity",
        "5.5s",
        "Id=a\nExecStop={ path=/x ; status=0/0 }\n\nId=b",
      ),
    ).map(String),
    wildText,
  ),
  holds(text) {
    const span = parseLimitMs(text);
    assert(span >= 0 && span <= 300_000, `${span}`);
    for (const properties of parseProperties(text)) assert(!("undefined" in properties));
  },
});

const inodes = new Set(["8:1:5678", "0:33:123456789012"]);

campaign("the kernel's list of locks names the processes that lock, and no others", {
  what: "/proc/locks",
  share: 30,
  inputs: bytesOf(
    fc
      .array(
        fc.constantFrom(
          "1: POSIX  ADVISORY  READ  1234 08:01:5678 128 128",
          "2: OFDLCK ADVISORY  WRITE -1 08:01:5678 0 EOF",
          "3: FLOCK  ADVISORY  WRITE 77 08:01:9 0 EOF",
          "3: -> POSIX  ADVISORY  WRITE 4321 00:21:123456789012 1073741826 1073742335",
          "4: LEASE  ACTIVE    READ  99 08:01:5678 0 EOF",
        ),
      )
      .map((lines) => `${lines.join("\n")}\n`),
  ).map((bytes) => bytes.toString()),
  holds(text) {
    for (const pid of parseLocks(text, inodes)) {
      assert(Number.isSafeInteger(pid) || text.includes(String(BigInt(pid))));
      assert(/5678|123456789012/.test(text));
    }
  },
});

/** A log of frames, each a page of one transaction or its end. */
function logOf(
  pageSize: number,
  frames: readonly { page: number; size: number }[],
  big: boolean,
): Buffer {
  const header = Buffer.alloc(32);
  for (const [index, word] of [
    big ? 0x377f0683 : 0x377f0682,
    3007000,
    pageSize,
    1,
    7,
    9,
  ].entries()) {
    header.writeUInt32BE(word, index * 4);
  }
  let sum = checksum([0, 0], header.subarray(0, 24), big);
  header.writeUInt32BE(sum[0], 24);
  header.writeUInt32BE(sum[1], 28);
  const parts = [header];
  for (const { page, size } of frames) {
    const frame = Buffer.alloc(
      24 + (pageSize === 1024 || pageSize === 4096 ? pageSize : 512),
      page & 255,
    );
    frame.writeUInt32BE(page, 0);
    frame.writeUInt32BE(size, 4);
    frame.writeUInt32BE(7, 8);
    frame.writeUInt32BE(9, 12);
    sum = checksum(checksum(sum, frame.subarray(0, 8), big), frame.subarray(24), big);
    frame.writeUInt32BE(sum[0], 16);
    frame.writeUInt32BE(sum[1], 20);
    parts.push(frame);
  }
  return Buffer.concat(parts);
}

function checksum(
  [a, b]: readonly [number, number],
  bytes: Buffer,
  big: boolean,
): [number, number] {
  let [first, second] = [a, b];
  for (let at = 0; at < bytes.length; at += 8) {
    first = (first + (big ? bytes.readUInt32BE(at) : bytes.readUInt32LE(at)) + second) >>> 0;
    second =
      (second + (big ? bytes.readUInt32BE(at + 4) : bytes.readUInt32LE(at + 4)) + first) >>> 0;
  }
  return [first, second];
}

campaign("of a log counts what was committed and holds, and nothing behind it", {
  what: "write-ahead log",
  share: 40,
  inputs: fc
    .record({
      pageSize: fc.constantFrom(512, 1024, 4096, 0, 100, 65_536, 2 ** 31),
      frames: fc.array(
        fc.record({
          page: fc.integer({ min: 0, max: 5 }),
          size: fc.constantFrom(0, 0, 5, 2 ** 32 - 1),
        }),
        {
          maxLength: 6,
        },
      ),
      big: fc.boolean(),
    })
    .chain((log) =>
      bytesOf(fc.constant(logOf(log.pageSize, log.frames, log.big))).map((bytes) => ({
        ...log,
        bytes,
      })),
    ),
  async holds({ pageSize, frames, big, bytes }) {
    const path = join(folder, "clients.db-wal");
    writeFileSync(path, bytes);
    await using file = await open(path);
    const found = await readWal(file);
    if (found === "empty" || found === "restarted") return;
    const { position, pages } = found;
    assert.equal(position.pageSize, pageSize);
    const whole = logOf(pageSize, frames, big);
    // What counts is a beginning of what was written, up to the end of a transaction.
    const end = 32 + position.frames * (24 + pageSize);
    assert(end <= bytes.length);
    assert(bytes.subarray(0, end).equals(whole.subarray(0, end)));
    if (position.frames > 0)
      assert.equal(frames[position.frames - 1]?.size, position.databasePages);
    const valid = frames.findIndex(({ page }) => page === 0);
    const counted = frames.slice(0, position.frames);
    assert(valid === -1 || position.frames <= valid);
    assert.deepEqual(new Set(pages.keys()), new Set(counted.map(({ page }) => page)));
    for (const at of pages.values()) assert(at + pageSize <= end);
    assert.notEqual(await readWal(file, position), "empty");
  },
});
