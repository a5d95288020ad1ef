/**
 * Writes the Debian package's copyright file, in the format that
 * https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/ describes, to standard output.
 *
 *   write-copyright.mjs LICENCE-OF-NODE
 */
import { readFileSync } from "node:fs";
import { npmPackages, sqlcipherLicence } from "./licences.mjs";

const installed = "usr/lib/hivemind-sqlcipher";
const nodeLicence = readFileSync(process.argv[2], "utf8").trim();
const packages = npmPackages();
const bindingText = packages.find(({ name }) => name === "@journeyapps/sqlcipher").text;
const keytar = packages.find(({ name }) => name === "@github/keytar");
const redis = packages.find(({ name }) => name === "@redis/client");
const bundled = packages.filter(
  (each) => ![keytar, redis].includes(each) && each.name !== "@journeyapps/sqlcipher",
);

/** Indents as a field's further lines. */
function field(text) {
  return text
    .split("\n")
    .map((line) => (line.trim() === "" ? " ." : ` ${line.trimEnd()}`))
    .join("\n");
}

function copyrightLines(...texts) {
  const lines = texts.flatMap((text) =>
    text.match(/^.*\bCopyright\b.*\d{4}.*$|^Copyright \(c\) .*$/gim),
  );
  return [...new Set(lines.filter((line) => line !== null).map((line) => line.trim()))];
}

function filesParagraph(files, copyright, license, comment) {
  return [
    `Files: ${files}`,
    `Copyright: ${copyright.join("\n  ")}`,
    `License: ${license}`,
    ...(comment ? [`Comment:\n${field(comment)}`] : []),
  ].join("\n");
}

function licenseParagraph(name, text) {
  return `License: ${name}\n${field(text)}`;
}

const paragraphs = [
  [
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
    "Upstream-Name: hivemind-sqlcipher",
  ].join("\n"),
  filesParagraph("*", ["2026 The hivemind-sqlcipher maintainers"], "Apache-2.0"),
  filesParagraph(
    `${installed}/bin/node`,
    ["Node.js contributors, and those whom the licence text names"],
    "Node.js",
    "Node.js contains V8, OpenSSL, libuv, ICU and others; the licence text covers each of them.",
  ),
  filesParagraph(
    `${installed}/native/*`,
    copyrightLines(bindingText, sqlcipherLicence()),
    "BSD-3-clause-sqlcipher",
    "The addon contains SQLite, which is in the public domain, and uses the system's OpenSSL.",
  ),
  filesParagraph(`${installed}/node_modules/keytar/*`, copyrightLines(keytar.text), "Expat-keytar"),
  filesParagraph(
    `${installed}/node_modules/@redis/*`,
    copyrightLines(redis.text),
    "Expat-redis-client",
  ),
  filesParagraph(
    `${installed}/dist/cli/*`,
    [
      "2026 The hivemind-sqlcipher maintainers",
      ...copyrightLines(...bundled.map(({ text }) => text)),
    ],
    "Apache-2.0 and npm-packages",
    "The command, with the npm packages that are bundled into it.",
  ),
  licenseParagraph(
    "Apache-2.0",
    "On Debian systems the full text of the Apache License 2.0 is in\n/usr/share/common-licenses/Apache-2.0.",
  ),
  licenseParagraph("Node.js", nodeLicence),
  licenseParagraph(
    "BSD-3-clause-sqlcipher",
    `@journeyapps/sqlcipher:\n\n${bindingText}\n\nSQLCipher:\n\n${sqlcipherLicence()}`,
  ),
  licenseParagraph("Expat-keytar", keytar.text),
  licenseParagraph("Expat-redis-client", redis.text),
  licenseParagraph(
    "npm-packages",
    bundled
      .map(({ name, version, license, text }) => `${name} ${version} (${license}):\n\n${text}`)
      .join("\n\n"),
  ),
];
process.stdout.write(`${paragraphs.join("\n\n")}\n`);
