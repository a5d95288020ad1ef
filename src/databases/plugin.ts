/** What makes a package a database plugin, and how its settings are read. */
import type { Database } from "../client/database.js";
import { JsonNumber, type JsonObject } from "../client/json.js";
import { StoreError } from "../errors.js";
import * as z from "../schema.js";

/** A plugin's settings: what stands under its name in `database` of `server.json`. */
export type DatabaseConfig = JsonObject;

export interface OpenOptions {
  /** `readonly` and `readwrite` refuse where there is no store yet (`notFound`); `create` makes one. */
  mode: "readonly" | "readwrite" | "create";
}

/** The value that a plugin's package exports under the name that its package.json gives: a class will do. */
export interface DatabasePlugin {
  /**
   * Opens a database on these settings.
   *
   * @throws StoreError `usage` for settings that are not what they should be; what else the store has to say.
   */
  open(config: DatabaseConfig, options: OpenOptions): Promise<Database>;
  /**
   * Where these settings lead, in words that tell two stores apart and hold no secret: a path, a URL. It is also the
   * account under which the keyring keeps the store's password.
   */
  place?(config: DatabaseConfig): string | Promise<string>;
}

/**
 * A plugin's settings, checked. An unknown key is refused here because it kills the hub.
 *
 * @throws StoreError `usage` naming the key, never its value.
 */
export function readConfig<Schema extends z.ZodMiniObject>(
  name: string,
  schema: Schema,
  config: DatabaseConfig,
): z.infer<Schema> {
  const plain = Object.fromEntries(
    Object.entries(config).flatMap(([key, value]) =>
      // What is null in the file is not set, as for the hub.
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
  throw new StoreError("usage", `the settings of ${name} are not what they should be: ${why}`);
}

/** The settings by which HiveMind's file-based plugins find their file. */
export const fileLocation = {
  name: z.optional(z.string().check(z.minLength(1))),
  subfolder: z.optional(z.string()),
};
