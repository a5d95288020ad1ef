/** The contract of a database plugin, and the parsing of its settings. */
import type { Database } from "../client/database.js";
import { JsonNumber, type JsonObject } from "../client/json.js";
import { StoreError } from "../errors.js";
import * as z from "../schema.js";

/** The settings under a plugin's name in `database` of `server.json`. */
export type DatabaseConfig = JsonObject;

export interface OpenOptions {
  /** `readonly` and `readwrite` throw `notFound` if there is no store; `create` creates it. */
  mode: "readonly" | "readwrite" | "create";
}

/** The interface of the export that `package.json` names, for example a class. */
export interface DatabasePlugin {
  /**
   * Opens a database.
   *
   * @throws {@link StoreError} usage - if a setting is invalid
   */
  open(config: DatabaseConfig, options: OpenOptions): Promise<Database>;
  /**
   * Returns a path or URL for the store, without secrets. It is also the keyring account of the
   * store's password.
   */
  place?(config: DatabaseConfig): string | Promise<string>;
}

/**
 * Validates a plugin's settings. Refuses an unknown key, because the hub would fail with it.
 *
 * @throws {@link StoreError} usage - with the invalid key, but not its value
 */
export function readConfig<Schema extends z.ZodMiniObject>(
  name: string,
  schema: Schema,
  config: DatabaseConfig,
): z.infer<Schema> {
  const plain = Object.fromEntries(
    Object.entries(config).flatMap(([key, value]) =>
      // As in the hub, a null counts as not set.
      value === null ? [] : [[key, value instanceof JsonNumber ? Number(value) : value]],
    ),
  );
  const parsed = schema.safeParse(plain);
  if (parsed.success) return parsed.data;
  const problem = parsed.error.issues[0];
  const where = problem?.path.join(".") ?? "";
  const why =
    problem?.code === "unrecognized_keys"
      ? `it has no setting ${problem.keys.map((key) => `"${key}"`).join(", ")}`
      : `"${where}": ${problem?.message}`;
  throw new StoreError("usage", `invalid settings of ${name}: ${why}`);
}

/** The location settings of HiveMind's file-based plugins. */
export const fileLocation = {
  name: z.optional(z.string().check(z.minLength(1))),
  subfolder: z.optional(z.string()),
};
