/** The settings of HiveMind's Redis plugin: which server, and where in it a store is. */
import { z } from "zod";
import { type DatabaseConfig, readConfig } from "./plugin.js";
import type { RedisPlace } from "./redis-connection.js";

export const redisPluginName = "hivemind-redis-db-plugin";

const port = z.int().min(1).max(65_535);

/** Every setting of the Python plugin; those that are for its own pool and caches mean nothing here. */
const schema = z.strictObject({
  host: z.string().min(1).default("127.0.0.1"),
  port: port.default(6379),
  db: z.int().min(0).default(0),
  name: z.string().optional(),
  subfolder: z.string().optional(),
  username: z.string().min(1).default("default"),
  password: z.string().optional(),
  index_prefix: z.string().min(1).default("client"),
  cluster_nodes: z
    .array(z.object({ host: z.string().min(1), port: z.coerce.number().pipe(port) }))
    .default([]),
  cluster_hash_tag: z
    .string()
    .regex(/^[^{}]*$/, "cannot hold { or }")
    .optional(),
  use_ssl: z.boolean().default(false),
  ssl: z.boolean().optional(),
  ssl_certfile: z.string().min(1).optional(),
  ssl_keyfile: z.string().min(1).optional(),
  ssl_ca_certs: z.string().min(1).optional(),
  ssl_cert_reqs: z.enum(["required", "optional", "none"]).default("required"),
  ssl_check_hostname: z.boolean().default(true),
  retry_attempts: z.int().min(0).max(20).default(3),
  retry_delay: z.number().min(0).max(60).default(0.1),
  max_connections: z.int().optional(),
  admission_record_ttl: z.int().optional(),
  api_key_cache_ttl: z.number().optional(),
  api_key_cache_size: z.int().optional(),
});

/** A server, and where in it one store is. */
export interface Namespace extends RedisPlace {
  prefix: string;
  /** Whether a hash tag keeps all of it in one slot. */
  tagged: boolean;
}

/** @throws StoreError `usage` for settings that are not what they should be. */
export function readPlace(config: DatabaseConfig): Namespace {
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
    retryDelay: settings.retry_delay,
    tagged: Boolean(tag),
    prefix: tag ? `${settings.index_prefix}:{${tag}}` : settings.index_prefix,
  };
}
