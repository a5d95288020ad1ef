import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { isKind, StoreError, systemError } from "../../errors.js";
import { formatSource } from "../../keys/source.js";
import { shellQuote } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { operate } from "../operate.js";
import { addOpenerOptions, type BundleKeyOptions, readOrAskOpener } from "../options/bundle.js";
import { rememberSource } from "../options/remember.js";
import type { Output } from "../ui/output.js";
import { askLines, hasTerminal, readStandardInput } from "../ui/prompt.js";

interface ImportOptions extends BundleKeyOptions {
  fromPaper?: boolean;
  output?: string;
}

/** In bytes. The lines of a bundle have a few kilobytes. */
const maxPaperBytes = 1024 * 1024;

export function addImport(group: Command): void {
  const command = addOpenerOptions(
    group
      .command("import [file]")
      .description("Import a bundle's passphrase into the keyring")
      .option("--from-paper", "Read the typed lines of a recovery sheet")
      .option("-o, --output <file>", "Write the typed bundle here (default: bundle.age)"),
  );
  finishCommand(command, importBundle, {
    details: [
      "The passphrase is imported only if it opens the store. With the passphrase source sealed:PATH, it is sealed into that file instead.",
      "With --from-paper, type each line of the sheet on the terminal as it is printed, with its number and its check; a line with a mistake has to be typed again. FILE can be a text file with the lines; without FILE and a terminal, the lines are read from standard input. The typed bundle is kept as a file, which restore --bundle reads, too.",
    ],
    examples: [
      "hivemind-sqlcipher bundle import clients.0123456789abcdef.bundle.age -i recovery-key.txt",
      "hivemind-sqlcipher bundle import --from-paper -i recovery-key.txt",
      "hivemind-sqlcipher bundle import typed.txt --from-paper -o bundle.age -i recovery-key.txt",
    ],
  });
}

async function importBundle(
  context: Context,
  file: string | undefined,
  options: ImportOptions,
): Promise<void> {
  const { assertStoreExists, importPassphrase } = await import("../../setup/import-passphrase.js");
  const bundle = resolveBundlePath(file, options);
  if (options.fromPaper) await assertNoFile(bundle);
  const opener = await readOrAskOpener(options, bundle);
  if (options.fromPaper) await writeTypedBundle(context, file, bundle);
  await assertStoreExists(context.storePath, bundle);
  const result = await operate(context, (lock) =>
    importPassphrase({ lock, source: context.source, bundle, opener }),
  );
  const { path, keyId, known } = result.imported;
  const { source } = context;
  await rememberSource(context, formatSource(source));
  const target = source.kind === "sealed" ? `the sealed file ${source.path}` : "the keyring";
  context.output.result(result, () => [
    known
      ? `The passphrase of ${path} (key_id ${keyId}) is already in ${target}`
      : `Imported the passphrase of ${path} (key_id ${keyId}) into ${target}; it opens the store`,
  ]);
}

function resolveBundlePath(file: string | undefined, { fromPaper, output }: ImportOptions): string {
  if (fromPaper) return expandPath(output ?? "bundle.age");
  if (output !== undefined) {
    throw new StoreError("usage", "--output needs --from-paper", {
      hint: "Leave --output out: the bundle is a file already.",
    });
  }
  if (file !== undefined) return expandPath(file);
  throw new StoreError("usage", "no bundle to import", {
    hint: "Name the bundle's file, or type the lines of a recovery sheet with --from-paper.",
  });
}

async function assertNoFile(path: string): Promise<void> {
  const { lstatIfExists } = await import("../../fs/read.js");
  if (!(await lstatIfExists(path))) return;
  throw new StoreError("refused", `file exists: ${path}`, {
    hint: `Name another file with --output, or import that bundle: hivemind-sqlcipher bundle import ${shellQuote(path)}`,
  });
}

/**
 * Writes the typed bundle. Called before the bundle is opened, so that after a wrong recovery key
 * the lines need not be typed again.
 */
async function writeTypedBundle(
  { output }: Context,
  file: string | undefined,
  path: string,
): Promise<void> {
  const { createFile } = await import("../../fs/atomic.js");
  const { readPaper } = await import("../../bundle/paper.js");
  const bundle =
    file === undefined && hasTerminal() && !output.json
      ? await readTypedLines(output)
      : readPaper(
          file === undefined ? await readStandardInput() : await readText(expandPath(file)),
        );
  await createFile(path, bundle);
  output.notice(`the typed bundle is ${path}`);
}

/** Reads the lines from the terminal. The terminal shows them: the bundle is encrypted. */
async function readTypedLines(output: Output): Promise<string> {
  const { PaperReader } = await import("../../bundle/paper.js");
  const reader = new PaperReader();
  output.notice('type the lines of the sheet as they are printed; the last line begins with "all"');
  await askLines(
    () => `line ${reader.next}: `,
    (line) => {
      try {
        return reader.accept(line);
      } catch (error) {
        if (!isKind(error, "usage")) throw error;
        output.warning(`${error.message}; type the line again`);
        return false;
      }
    },
  );
  return reader.decodeBundle();
}

async function readText(path: string): Promise<string> {
  const { readSmallFile } = await import("../../fs/read.js");
  try {
    return (await readSmallFile(path, maxPaperBytes)).bytes.toString("utf8");
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
}
