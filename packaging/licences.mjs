/** The licences of what the packages contain, read from where each of them is kept. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const top = fileURLToPath(new URL("..", import.meta.url));

/** SQLCipher's, which stands in its source. */
export function sqlcipherLicence() {
  const source = readFileSync(
    join(top, "node_modules/@journeyapps/sqlcipher/deps/sqlcipher-amalgamation/sqlite3.c"),
    "latin1",
  );
  const found = /^\*\* (Copyright \(c\) \d+, ZETETIC LLC\n[\s\S]*?SUCH DAMAGE\.)$/m.exec(source);
  if (found === null) throw new Error("SQLCipher's source has no licence in it");
  return found[1].replaceAll(/^\*\* ?/gm, "").trim();
}

/** Every npm package that the lock file has for run time: name, version, licence and its text. */
export function npmPackages() {
  const { packages } = JSON.parse(readFileSync(join(top, "package-lock.json"), "utf8"));
  return Object.entries(packages)
    .filter(([path, entry]) => path !== "" && !entry.dev && !entry.devOptional && !entry.optional)
    .map(([path, entry]) => {
      const directory = join(top, path);
      const name = entry.name ?? path.slice(path.lastIndexOf("node_modules/") + 13);
      return {
        name,
        version: entry.version,
        license: entry.license,
        text: textOf(name, directory),
      };
    });
}

function textOf(name, directory) {
  const kept = join(top, "packaging/licences", name.replace("/", "+"));
  if (existsSync(kept)) return readFileSync(kept, "utf8").trim();
  const file = readdirSync(directory).find((entry) => /^licen[cs]e/i.test(entry));
  if (file === undefined)
    throw new Error(`${name} has no licence; put one into packaging/licences`);
  return readFileSync(join(directory, file), "utf8").trim();
}
