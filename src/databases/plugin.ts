/** The contract of a database plugin, and the parsing of its settings. */
import type { Database } from "../client/database.js";
import { JsonNumber, type JsonObject } from "../client/json.js";
import { StoreError } from "../errors.js";
import * as z from "../schema.js";

/** The settings under a plugin's name in `database` of `server.json`. */
export type DatabaseConfig = JsonObject;

/** A database: the name of its plugin and its settings. */
export interface Endpoint {
  readonly name: string;
  readonly config: DatabaseConfig;
}

export interface OpenOptions {
  /**
   * `readonly` and `readwrite` throw `notFound` if the store does not exist; `create` creates it. A
   * Redis store without records exists, too. A caller with `readonly` changes nothing; a plugin may
   * enforce this.
   */
  mode: "readonly" | "readwrite" | "create";
}

/** The export that a plugin's `package.json` names, for example a class with a static `open`. */
export interface DatabasePlugin {
  /**
   * Opens a database.
   *
   * @throws {@link StoreError} usage - if a setting is invalid
   */
  open(config: DatabaseConfig, options: OpenOptions): Promise<Database>;
  /**
   * Returns the path or URL of the store, without secrets. The keyring has the store's password
   * under this text as the account. Without this function, the plugin's name is used for both.
   */
  place?(config: DatabaseConfig): string | Promise<string>;
}

/**
 * Validates a plugin's settings. A setting that is null counts as not set.
 *
 * @throws {@link StoreError} usage - if a value is invalid, or if a key is unknown, because the hub
 *   would fail with it; the message contains the key, but not its value
 */
export function readConfig<Schema extends z.ZodMiniObject>(
  name: string,
  schema: Schema,
  config: DatabaseConfig,
): z.infer<Schema> {
  const plain = Object.fromEntries(
    Object.entries(config).flatMap(([key, value]) =>
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
