/** The settings of HiveMind's Redis plugin: server and namespace. */
import * as z from "../schema.js";
import { type DatabaseConfig, readConfig } from "./plugin.js";

export const redisPluginName = "hivemind-redis-db-plugin";

const port = z.int().check(z.minimum(1), z.maximum(65_535));

/**
 * All settings of the Python plugin. `name`, `subfolder` and the settings of its pool and its
 * caches have no effect here. `optional` for `ssl_cert_reqs` has the same effect as `required`.
 */
const schema = z.strictObject({
  host: z._default(z.string().check(z.minLength(1)), "127.0.0.1"),
  port: z._default(port, 6379),
  db: z._default(z.int().check(z.minimum(0)), 0),
  name: z.optional(z.string()),
  subfolder: z.optional(z.string()),
  username: z._default(z.string().check(z.minLength(1)), "default"),
  password: z.optional(z.string()),
  index_prefix: z._default(z.string().check(z.minLength(1)), "client"),
  cluster_nodes: z._default(
    z.array(
      z.object({ host: z.string().check(z.minLength(1)), port: z.pipe(z.coerce.number(), port) }),
    ),
    [],
  ),
  cluster_hash_tag: z.optional(z.string().check(z.regex(/^[^{}]*$/, "cannot hold { or }"))),
  use_ssl: z._default(z.boolean(), false),
  ssl: z.optional(z.boolean()),
  ssl_certfile: z.optional(z.string().check(z.minLength(1))),
  ssl_keyfile: z.optional(z.string().check(z.minLength(1))),
  ssl_ca_certs: z.optional(z.string().check(z.minLength(1))),
  ssl_cert_reqs: z._default(z.enum(["required", "optional", "none"]), "required"),
  ssl_check_hostname: z._default(z.boolean(), true),
  /** The maximum number of attempts to restore a lost connection. */
  retry_attempts: z._default(z.int().check(z.minimum(0), z.maximum(20)), 3),
  /** The pause before the first attempt, in seconds. It doubles with each attempt. */
  retry_delay: z._default(z.number().check(z.minimum(0), z.maximum(60)), 0.1),
  max_connections: z.optional(z.int()),
  admission_record_ttl: z.optional(z.int()),
  api_key_cache_ttl: z.optional(z.number()),
  api_key_cache_size: z.optional(z.int()),
});

export type RedisSettings = z.infer<typeof schema>;

/** @throws {@link StoreError} usage - if a setting is invalid */
export function readRedisSettings(config: DatabaseConfig): RedisSettings {
  return readConfig(redisPluginName, schema, config);
}

/** Returns the hash tag that keeps all keys of a store in a single slot of a cluster. */
export function hashTag({ cluster_hash_tag: tag }: RedisSettings): string | undefined {
  return tag?.trim() || undefined;
}

/** Returns the prefix of all keys of a store. */
export function keyPrefix(settings: RedisSettings): string {
  const tag = hashTag(settings);
  return tag === undefined ? settings.index_prefix : `${settings.index_prefix}:{${tag}}`;
}
