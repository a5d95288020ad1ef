/** The settings of HiveMind's Redis plugin: server and namespace. */
import * as z from "../schema.js";
import { type DatabaseConfig, readConfig } from "./plugin.js";
import type { RedisEndpoint } from "./redis-connection.js";

export const redisPluginName = "hivemind-redis-db-plugin";

const port = z.int().check(z.minimum(1), z.maximum(65_535));

/**
 * All settings of the Python plugin. `name`, `subfolder` and the settings of its pool and its
 * caches have no effect here.
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
  retry_attempts: z._default(z.int().check(z.minimum(0), z.maximum(20)), 3),
  retry_delay: z._default(z.number().check(z.minimum(0), z.maximum(60)), 0.1),
  max_connections: z.optional(z.int()),
  admission_record_ttl: z.optional(z.int()),
  api_key_cache_ttl: z.optional(z.number()),
  api_key_cache_size: z.optional(z.int()),
});

/** A server, and the namespace of a store on it. */
export interface Namespace extends RedisEndpoint {
  prefix: string;
  /** Whether a hash tag keeps the whole namespace in a single slot of a cluster. */
  isTagged: boolean;
}

/** @throws {@link StoreError} usage - if a setting is invalid */
export function readNamespace(config: DatabaseConfig): Namespace {
  const settings = readConfig(redisPluginName, schema, config);
  const tag = settings.cluster_hash_tag?.trim();
  return {
    host: settings.host,
    port: settings.port,
    db: settings.db,
    username: settings.username,
    password: settings.password || undefined,
    clusterNodes: settings.cluster_nodes,
    tls:
      (settings.ssl ?? settings.use_ssl)
        ? {
            certfile: settings.ssl_certfile,
            keyfile: settings.ssl_keyfile,
            caCerts: settings.ssl_ca_certs,
            certReqs: settings.ssl_cert_reqs,
            checkHostname: settings.ssl_check_hostname,
          }
        : undefined,
    retryAttempts: settings.retry_attempts,
    retryDelaySeconds: settings.retry_delay,
    isTagged: Boolean(tag),
    prefix: tag ? `${settings.index_prefix}:{${tag}}` : settings.index_prefix,
  };
}
