/**
 * A connection to a Redis server or cluster, with errors mapped to `StoreError`.
 *
 * Commands sent in the same turn of the event loop are pipelined, so a batch costs a single round
 * trip per node. Connecting, waiting for a reply and retrying are all bounded.
 */
import { readFile } from "node:fs/promises";
import type { RedisTcpSocketOptions } from "@redis/client/dist/lib/client/socket.js";
import { StoreError, systemError } from "../errors.js";

/** The server settings of HiveMind's Redis plugin. */
export interface RedisEndpoint {
  host: string;
  port: number;
  db: number;
  username: string;
  password: string | undefined;
  clusterNodes: readonly { host: string; port: number }[];
  tls: RedisTls | undefined;
  /** The maximum number of attempts to restore a lost connection. */
  retryAttempts: number;
  /** The pause before the first attempt. It doubles with each attempt. */
  retryDelaySeconds: number;
}

export interface RedisTls {
  certfile: string | undefined;
  keyfile: string | undefined;
  caCerts: string | undefined;
  /** `none` accepts any certificate. `optional` has the same effect as `required`. */
  certReqs: "required" | "optional" | "none";
  checkHostname: boolean;
}

/** As in HiveMind's plugin. */
const connectTimeoutMs = 5_000;
/** Long enough for a cluster to elect a new master. A reply normally takes milliseconds. */
const replyTimeoutMs = 15_000;
/** The maximum number of redirections of a command whose slot has moved; usually one is enough. */
const maxRedirections = 5;
/** The number of hash slots of a cluster. In a healthy cluster every slot has a master. */
const clusterSlots = 16_384;

/** The keys that one SCAN examines: the server is blocked for a few milliseconds. */
const scanCount = 5_000;

type Single = Awaited<ReturnType<typeof createSingleClient>>;
type Cluster = Awaited<ReturnType<typeof createClusterClient>>;

/**
 * Returns `redis://user@host:port/db` without the password, for messages and as the keyring
 * account.
 */
export function formatRedisUrl(endpoint: RedisEndpoint): string {
  const { host, port } = endpoint.clusterNodes[0] ?? endpoint;
  const scheme = endpoint.tls === undefined ? "redis" : "rediss";
  const name = host.includes(":") ? `[${host}]` : host;
  return `${scheme}://${encodeURIComponent(endpoint.username)}@${name}:${port}/${endpoint.db}`;
}

export class RedisConnection {
  readonly url: string;
  readonly #single: Single | undefined;
  readonly #cluster: Cluster | undefined;
  /** The last error of the connection. A command that fails because of it reports only "closed". */
  readonly #errors: Errors;

  private constructor(url: string, server: { single?: Single; cluster?: Cluster }, errors: Errors) {
    this.url = url;
    this.#single = server.single;
    this.#cluster = server.cluster;
    this.#errors = errors;
  }

  /**
   * Connects, and detects a cluster as HiveMind's plugin does.
   *
   * @throws {@link StoreError} io - if no server responds, or a slot of the cluster has no master
   * @throws {@link StoreError} wrongPassphrase - if the password is rejected
   * @throws {@link StoreError} passphraseUnavailable - if the server requires a password
   */
  static async open(endpoint: RedisEndpoint): Promise<RedisConnection> {
    const url = formatRedisUrl(endpoint);
    const options = await buildClientOptions(endpoint);
    if (endpoint.clusterNodes.length === 0) {
      const single = await createSingleClient(endpoint, options);
      const connection = await RedisConnection.#connect(url, { single });
      if (!(await connection.#isClusterNode())) return connection;
      await connection.close();
    }
    const cluster = await createClusterClient(endpoint, options);
    const connection = await RedisConnection.#connect(url, { cluster });
    if (Object.keys(cluster.slots).length === clusterSlots) return connection;
    await connection.close();
    throw toStoreError(new Error("CLUSTERDOWN"), url, undefined);
  }

  async #isClusterNode(): Promise<boolean> {
    try {
      return /^cluster_enabled:1/m.test(String(await this.send("", ["INFO", "cluster"])));
    } catch (error) {
      // An open connection would keep the process alive.
      await this.close();
      throw error;
    }
  }

  get isCluster(): boolean {
    return this.#cluster !== undefined;
  }

  /**
   * Sends a command to the node of `key`.
   *
   * @throws {@link StoreError} if the server or the network fails
   */
  async send(key: string, command: string[]): Promise<unknown> {
    return this.#awaitReply(this.#dispatch(key, command));
  }

  /** Sends several commands in a pipeline. Returns the replies in the same order. */
  async sendAll(commands: readonly { key: string; command: string[] }[]): Promise<unknown[]> {
    return this.#awaitReply(
      Promise.all(commands.map(({ key, command }) => this.#dispatch(key, command))),
    );
  }

  #dispatch(key: string, command: string[]): Promise<unknown> | undefined {
    return this.#cluster === undefined
      ? this.#single?.sendCommand<unknown>(command)
      : this.#cluster.sendCommand<unknown>(key, false, command);
  }

  /**
   * Yields all keys that match a pattern, in batches. A key that moves during the scan may appear
   * twice.
   */
  async *scan(pattern: string): AsyncGenerator<string[]> {
    for (const node of await this.#awaitReply(this.#listNodes())) {
      let cursor = "0";
      do {
        const command = ["SCAN", cursor, "MATCH", pattern, "COUNT", String(scanCount)];
        const [next, keys] = await this.#awaitReply(node.sendCommand<[string, string[]]>(command));
        if (keys.length > 0) yield keys;
        cursor = next;
      } while (cursor !== "0");
    }
  }

  async close(): Promise<void> {
    // Not the graceful close: it waits for the pending replies of a server that may have failed.
    if (this.#single?.isOpen) this.#single.destroy();
    if (this.#cluster?.isOpen) this.#cluster.destroy();
  }

  async #listNodes(): Promise<Single[]> {
    const cluster = this.#cluster;
    if (cluster === undefined) return this.#single === undefined ? [] : [this.#single];
    return Promise.all(cluster.masters.map((master) => cluster.nodeClient(master)));
  }

  async #awaitReply<Reply>(sent: Promise<Reply> | undefined): Promise<Reply> {
    try {
      return await withTimeout(sent);
    } catch (error) {
      throw toStoreError(error, this.url, this.#errors.last);
    }
  }

  static async #connect(
    url: string,
    server: { single?: Single; cluster?: Cluster },
  ): Promise<RedisConnection> {
    const errors: Errors = { last: undefined };
    const client = server.single ?? server.cluster;
    client?.on("error", (error: unknown) => {
      errors.last = error;
    });
    const connection = new RedisConnection(url, server, errors);
    try {
      await withTimeout<unknown>(client?.connect());
      return connection;
    } catch (error) {
      await connection.close();
      throw toStoreError(error, url, errors.last);
    }
  }
}

interface Errors {
  last: unknown;
}

async function createSingleClient(endpoint: RedisEndpoint, options: ClientOptions) {
  const { createClient } = await import("@redis/client");
  const { host, port, db } = endpoint;
  const socket = { ...options.socket, host, port };
  return createClient({ ...options, RESP: 2, database: db, socket });
}

async function createClusterClient(endpoint: RedisEndpoint, options: ClientOptions) {
  const { createCluster } = await import("@redis/client");
  const nodes = endpoint.clusterNodes.length > 0 ? endpoint.clusterNodes : [endpoint];
  const rootNodes = nodes.map(({ host, port }) => ({
    ...options,
    socket: { ...options.socket, host, port },
  }));
  const maxCommandRedirections = maxRedirections;
  return createCluster({ RESP: 2, rootNodes, defaults: options, maxCommandRedirections });
}

type ClientOptions = Awaited<ReturnType<typeof buildClientOptions>>;

/** Returns the options of every connection, including connections to other nodes of a cluster. */
async function buildClientOptions(endpoint: RedisEndpoint) {
  const { password, username, retryAttempts, retryDelaySeconds } = endpoint;
  const socket: RedisTcpSocketOptions = {
    ...(endpoint.tls && (await readTlsOptions(endpoint.tls))),
    connectTimeout: connectTimeoutMs,
    reconnectStrategy: (retries: number, cause: Error) =>
      retries >= retryAttempts ? cause : retryDelaySeconds * 1000 * 2 ** retries,
  };
  return { socket, ...(password !== undefined && { username, password }) };
}

async function readTlsOptions(tls: RedisTls) {
  const read = async (path: string | undefined) => {
    if (path === undefined) return undefined;
    return readFile(path).catch((error: unknown) => {
      throw systemError(error, `cannot read ${path}`);
    });
  };
  const [cert, key, ca] = await Promise.all([tls.certfile, tls.keyfile, tls.caCerts].map(read));
  return {
    tls: true as const,
    ...(cert && { cert }),
    ...(key && { key }),
    ...(ca && { ca }),
    rejectUnauthorized: tls.certReqs !== "none",
    ...(!tls.checkHostname && { checkServerIdentity: () => undefined }),
  };
}

async function withTimeout<Reply>(sent: Promise<Reply> | undefined): Promise<Reply> {
  if (sent === undefined) throw new Error("the connection is closed");
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no reply within ${replyTimeoutMs / 1000} seconds`)),
      replyTimeoutMs,
    );
  });
  try {
    return await Promise.race([sent, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Returns whether a message begins with a code, as every error reply of Redis does. */
function isReply(message: string): boolean {
  return /^[A-Z]{3,} /.test(message);
}

function toStoreError(error: unknown, url: string, lastError: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const messages = [error, lastError, (error as Error)?.cause].map((each) => messageOf(each));
  const reply = messages.find(isReply) ?? messages[0] ?? "";
  const [code = ""] = reply.split(" ");
  const options = { cause: error };
  switch (code) {
    case "WRONGPASS":
      return new StoreError("wrongPassphrase", `${url}: wrong password or unknown user`, options);
    case "NOAUTH":
      return new StoreError("passphraseUnavailable", `${url} requires a password`, {
        ...options,
        hint: 'With migrate, name the source of the password: --from-password-source or --to-password-source. Other commands read "password" in server.json.',
      });
    case "NOPERM":
      return new StoreError("io", `${url}: permission denied: ${reply}`, options);
    case "READONLY":
      return new StoreError("io", `${url} is a read-only replica`, {
        ...options,
        hint: "Set host and port to those of its master (redis-cli INFO replication).",
      });
    case "CLUSTERDOWN":
      return new StoreError("io", `${url}: the cluster is down: some slots have no master`, {
        ...options,
        hint: "Start its nodes (redis-cli CLUSTER INFO), then run the command again.",
      });
    case "WRONGTYPE":
      return new StoreError("corrupted", `${url}: ${reply.slice(code.length + 1)}`, {
        ...options,
        hint: "Check the key (redis-cli TYPE KEY): another program may use the same prefix.",
      });
    case "OOM":
      return new StoreError("io", `${url} is out of memory`, options);
    case "LOADING":
      return new StoreError("io", `${url} is still loading its data`, options);
    case "MISCONF":
    case "NOREPLICAS":
    case "MASTERDOWN":
    case "TRYAGAIN":
      return new StoreError("io", `${url} refused the command: ${reply}`, options);
  }
  if (/^ERR (?:AUTH|invalid password)/i.test(reply)) {
    return new StoreError("wrongPassphrase", `${url}: the password is rejected`, options);
  }
  // The error of a command on a closed connection does not contain why the connection was closed.
  const reason = isReply(reply) ? reply : messageOf(lastError) || reply;
  return new StoreError("io", `cannot use Redis at ${url}: ${reason}`, {
    ...options,
    hint: "Check that it runs and is reachable: redis-cli -h HOST -p PORT ping",
  });
}

function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return messageOf(error.errors[0]);
  if (error instanceof Error) return error.message;
  return error === undefined ? "" : String(error);
}
