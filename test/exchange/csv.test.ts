import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Client, newClient, revoked } from "../../src/client/client.js";
import { formatCsvHeader, formatCsvRow, readCsv } from "../../src/exchange/csv.js";
import { type ImportRow, isRejectedRow, type RejectedRow } from "../../src/exchange/import-row.js";
import { splitLines } from "../../src/exchange/text.js";
import { fixtures } from "../store/temporary.js";

async function* bytes(text: string): AsyncGenerator<Uint8Array> {
  const all = Buffer.from(text);
  for (let start = 0; start < all.length; start += 7) yield all.subarray(start, start + 7);
}

async function read(text: string): Promise<(ImportRow | RejectedRow)[]> {
  const lines = splitLines(bytes(text));
  const first = await lines.next();
  const rows: (ImportRow | RejectedRow)[] = [];
  for await (const row of readCsv(lines, { text: first.value ?? "", number: 1 })) rows.push(row);
  return rows;
}

test("text is split into the same lines wherever its chunks end", async () => {
  async function linesIn(text: string, chunkLength: number): Promise<string[]> {
    async function* chunks() {
      const all = Buffer.from(text);
      for (let at = 0; at < all.length; at += chunkLength) yield all.subarray(at, at + chunkLength);
    }
    const found: string[] = [];
    for await (const line of splitLines(chunks())) found.push(line);
    return found;
  }
  for (const end of ["\n", "\r\n", "\r"]) {
    const lines = [`abc${end}`, end, `d${end}`, "ef"];
    for (const text of [lines, lines.slice(0, 3), lines.slice(0, 1)]) {
      for (const length of [1, 2, 3, 4, 5, 100])
        expect(await linesIn(text.join(""), length)).toEqual(text);
    }
  }
  // Searching the whole text again in each chunk took minutes.
  const long = "x".repeat(8_000_000);
  expect((await linesIn(long, 500)).map((line) => line.length)).toEqual([long.length]);
});

const hubHeader = "client_id,name,is_admin,access_key,password,crypto_key";
const newerHeader = "client_id,name,is_admin,access_key,password";

/** As `hivemind-core export-clients` of either line writes it. */
function hubLine(client: Client, width: number): string {
  const python = (value: string | null) => value ?? "None";
  const values = [
    String(client.client_id),
    python(client.name),
    client.is_admin ? "True" : "False",
    client.api_key,
    python(client.password),
    python(client.crypto_key),
  ];
  return values.slice(0, width).join(",");
}

describe("what the hub wrote", () => {
  test("is read with commas in names, None, True, and revoked rows", async () => {
    const rows = await read(
      `${hubHeader}\n1,kitchen, upstairs,True,key1,None,None\n2,revoked one,False,revoked,None,None\n3,5" screen,False,key3,pass,0123456789abcdef`,
    );
    expect(rows).toMatchObject([
      { id: 1, client: { name: "kitchen, upstairs", is_admin: true, password: null } },
      { id: 2, client: { api_key: "revoked" } },
      { id: 3, client: { name: '5" screen', password: "pass", crypto_key: "0123456789abcdef" } },
    ]);
    expect(await read(`${newerHeader}\n4,a,b,False,k,p`)).toMatchObject([
      { id: 4, client: { name: "a,b", api_key: "k", password: "p", crypto_key: null } },
    ]);
  });

  test("is refused by its line where it can be read in more than one way", async () => {
    const rows = await read(
      [
        hubHeader,
        "1,a,True,key,pass,word,None",
        "2,a,True,True,key,pass,None",
        '3,"a",False,key,pass,None',
        "4,two",
        "lines,False,key,pass,None",
        "5,fine,False,key5,pass,None",
      ].join("\n"),
    );
    expect(rows.map((row) => (isRejectedRow(row) ? row.where : row.id))).toEqual([
      "line 2",
      "line 3",
      "line 4",
      "line 5",
      "line 6",
      5,
    ]);
    expect(rows.slice(0, 3).every((row) => isRejectedRow(row) && /ambiguous/.test(row.why))).toBe(
      true,
    );
  });

  test("a row mended by quoting, with true in small letters, is read", async () => {
    expect(await read(`${hubHeader}\n1,"a, True",true,"ke,y",None,""\n`)).toMatchObject([
      { client: { name: "a, True", api_key: "ke,y", password: null, crypto_key: "" } },
    ]);
  });

  test("a row of quoted values is read, whatever they contain", async () => {
    expect(await read(`${hubHeader}\n"1","a,True,b","true","key","pass","word"\n`)).toMatchObject([
      { id: 1, client: { name: "a,True,b", is_admin: true, api_key: "key" } },
    ]);
  });

  test("is never read as anything else than what was written", async () => {
    const text = fc.string({ unit: fc.constantFrom("a", ",", '"', "True", "None", " ", "é", "1") });
    const nullable = fc.option(text);
    const client = fc
      .record({
        name: nullable,
        is_admin: fc.boolean(),
        api_key: text,
        password: nullable,
        crypto_key: nullable,
      })
      .map((fields) => newClient({ client_id: 1, ...fields }));
    const asNone = (value: string | null) => (value === "None" ? null : value);
    await fc.assert(
      fc.asyncProperty(client, fc.constantFrom(5, 6), async (written, width) => {
        fc.pre(written.api_key !== "" && written.api_key !== "None");
        const header = width === 6 ? hubHeader : newerHeader;
        const [row] = await read(`${header}\n${hubLine(written, width)}`);
        if (row === undefined || isRejectedRow(row)) return;
        expect(row.client).toMatchObject({
          name: asNone(written.name),
          is_admin: written.is_admin,
          api_key: written.api_key,
          password: asNone(written.password),
          ...(width === 6 && { crypto_key: asNone(written.crypto_key) }),
        });
      }),
      { numRuns: 500 },
    );
  });
});

describe("our own CSV", () => {
  test("is read as it was written, whatever is in it", async () => {
    const text = fc.string({ unit: "grapheme" }).map((value) => value.replaceAll("\0", ""));
    const client = fc.record({
      name: fc.option(fc.oneof(text, fc.constantFrom("None", "", "a\r\nb", '"', ",True,"))),
      is_admin: fc.boolean(),
      api_key: text.filter((key) => key !== ""),
      password: fc.option(text),
      crypto_key: fc.option(text),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(client, { minLength: 1, maxLength: 3 }), async (all) => {
        const clients = all.map((fields, index) => newClient({ client_id: index + 1, ...fields }));
        const rows = await read(
          formatCsvHeader(true) + clients.map((each) => formatCsvRow(each, true)).join(""),
        );
        expect(rows.map((row) => (isRejectedRow(row) ? row : row.client))).toEqual(clients);
      }),
    );
  });

  test("holds no secret unless it is asked for, and is then told to be no import", async () => {
    const client = newClient({ client_id: 1, api_key: "kkk", password: "ppp", crypto_key: "ccc" });
    const text = formatCsvHeader(false) + formatCsvRow(client, false);
    expect(text).toBe('"client_id","name","is_admin"\r\n"1","","false"\r\n');
    await expect(read(text)).rejects.toThrow(/no access keys/);
  });
});

describe("any other CSV", () => {
  test("has its columns in any order, without an id if need be", async () => {
    expect(await read('access_key,name\nk1,"a, b"\n\nk2,\n')).toMatchObject([
      { where: "line 2", id: undefined, given: ["api_key", "name"], client: { name: "a, b" } },
      { client: { api_key: "k2", name: null } },
    ]);
  });

  test("is refused by its line where it is not CSV, or not a client", async () => {
    const problems = await read(
      'access_key,client_id,is_admin\nk,x,true\nk,1,perhaps\nk,0,true\n,1,true\nk\nk,1,"true" x\nk,2,true\n',
    );
    expect(problems.map((row) => isRejectedRow(row) && `${row.where}: ${row.why}`)).toEqual([
      "line 2: client_id is not a whole number",
      "line 3: is_admin is neither true nor false",
      "line 4: client_id must be 1 or more",
      "line 5: access key missing",
      "line 6: it has 1 values, not 3",
      "line 7: malformed quotes",
      false,
    ]);
    expect(await read('access_key\n"k')).toEqual([{ where: "line 2", why: "malformed quotes" }]);
    await expect(read("key,name\n")).rejects.toThrow(/not a header/);
    await expect(read("access_key,access_key\n")).rejects.toThrow(/duplicate column/);
  });

  test("no text at all crashes the reader", async () => {
    const header = fc.constantFrom(hubHeader, newerHeader, "access_key", '"access_key","name"', "");
    const cell = fc.constantFrom(
      '"',
      ",",
      "\n",
      "\r",
      "True",
      "1",
      "a",
      "\0",
      "None",
      "é",
      "revoked",
    );
    await fc.assert(
      fc.asyncProperty(header, fc.string({ unit: cell, maxLength: 60 }), async (first, rest) => {
        try {
          for (const row of await read(`${first}\n${rest}`))
            expect(row.where).toMatch(/^line \d+$/);
        } catch (error) {
          expect(error).toMatchObject({ name: "StoreError", kind: "refused" });
        }
      }),
      { numRuns: 500 },
    );
  });
});

test("a revoked client is a row like any other", async () => {
  expect(await read(formatCsvHeader(true) + formatCsvRow(revoked(3), true))).toMatchObject([
    { id: 3, client: { api_key: "revoked" } },
  ]);
});

describe("what a spreadsheet saved", () => {
  const saved = (name: string) => readFileSync(join(fixtures, "csv", name), "utf8");
  const key = "a".repeat(32);

  test.each([
    ["a byte order mark, CRLF, quotes and TRUE", "excel1.csv", 2],
    ["CR line ends", "cr.csv", 1],
    ["semicolons", "semi.csv", 1],
  ])("with %s is read", async (_what, name, count) => {
    const rows = await read(saved(name));
    expect(rows).toHaveLength(count);
    expect(rows[0]).toMatchObject({ client: { api_key: key, password: "pw1", is_admin: false } });
  });

  test("keeps a comma in a quoted name, whose is_admin is TRUE", async () => {
    const [, second] = await read(saved("excel1.csv"));
    expect(second).toMatchObject({ id: 92, client: { name: "bath, left", is_admin: true } });
  });

  test.each([";", "\t", "|"])(
    "with the separator %j and other words for true is read",
    async (by) => {
      const header = ["client_id", "name", "is_admin", "access_key"].join(by);
      const words = ["Yes", "no", "1", "0", "on", "OFF", "t", "F"];
      const rows = words.map((word, index) => [index + 1, "x", word, `key${index}`].join(by));
      const read_ = await read([header, ...rows, by.repeat(3), ""].join("\r\n"));
      expect(read_.map((row) => !isRejectedRow(row) && row.client.is_admin)).toEqual(
        words.map((_word, index) => index % 2 === 0),
      );
    },
  );

  test("with a key that became a number is rejected, without quoting the key", async () => {
    const rows = await read(saved("sci.csv"));
    expect(rows).toEqual([
      { where: "line 2", why: expect.stringContaining("access_key is in scientific notation") },
    ]);
    expect(JSON.stringify(rows)).not.toContain("1.23457");
  });

  test.each(["1.23457E+15", "1,23456789012346E+015", "1E+31", "1.2345678901234568e+31"])(
    "has %s for a key",
    async (damaged) => {
      const [row] = await read(`${hubHeader}\r\n1,a,FALSE,k1,p,"${damaged}"\r\n`);
      expect(row).toMatchObject({ why: expect.stringContaining("crypto_key is in scientific") });
    },
  );

  test.each([
    "5e12345678901234",
    "12345e7890123456",
    "1234567890123456",
    "0000000000000012",
    "1e5",
  ])("is not assumed for %s, a key of digits", async (key) => {
    const client = newClient({ client_id: 1, api_key: key, password: key, crypto_key: key });
    const own = formatCsvHeader(true) + formatCsvRow(client, true);
    const ofHub = `${hubHeader}\n${hubLine(client, 6)}`;
    for (const text of [own, ofHub]) expect(await read(text)).toMatchObject([{ client }]);
  });

  test("with empty rows is read without them", async () => {
    const rows = await read(`${hubHeader}\r\n1,a,FALSE,k1,p,\r\n,,,,,\r\n\r\n2,b,TRUE,k2,p,\r\n`);
    expect(rows).toMatchObject([{ id: 1 }, { id: 2 }]);
  });
});
