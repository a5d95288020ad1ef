/**
 * A connection to a Redis server or cluster, with errors mapped to `StoreError`.
 *
 * Commands sent in the same turn of the event loop are pipelined, so a batch costs a single round
 * trip per node. Connecting, waiting for a reply and retrying are all bounded.
 */
import { readFile } from "node:fs/promises";
import type { RedisTcpSocketOptions } from "@redis/client/dist/lib/client/socket.js";
import { type ErrorKind, StoreError, systemError } from "../errors.js";
import type { RedisSettings } from "./redis-settings.js";

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
export function formatRedisUrl(settings: RedisSettings): string {
  const { host, port } = settings.cluster_nodes[0] ?? settings;
  const scheme = usesTls(settings) ? "rediss" : "redis";
  const name = host.includes(":") ? `[${host}]` : host;
  return `${scheme}://${encodeURIComponent(settings.username)}@${name}:${port}/${settings.db}`;
}

function usesTls({ ssl, use_ssl }: RedisSettings): boolean {
  return ssl ?? use_ssl;
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
  static async open(settings: RedisSettings): Promise<RedisConnection> {
    const url = formatRedisUrl(settings);
    const options = await buildClientOptions(settings);
    if (settings.cluster_nodes.length === 0) {
      const single = await createSingleClient(settings, options);
      const connection = await RedisConnection.#connect(url, { single });
      if (!(await connection.#isClusterNode())) return connection;
      await connection.close();
    }
    const cluster = await createClusterClient(settings, options);
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

  /** Runs `work` on each server: every master of a cluster, or the only server. */
  async onServers(
    work: (send: (command: readonly string[]) => Promise<unknown>) => Promise<void>,
  ): Promise<void> {
    for (const node of await this.#awaitReply(this.#listNodes())) {
      await work((command) => this.#awaitReply(node.sendCommand<unknown>(command)));
    }
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

async function createSingleClient({ host, port, db }: RedisSettings, options: ClientOptions) {
  const { createClient } = await import("@redis/client");
  const socket = { ...options.socket, host, port };
  return createClient({ ...options, RESP: 2, database: db, socket });
}

async function createClusterClient(settings: RedisSettings, options: ClientOptions) {
  const { createCluster } = await import("@redis/client");
  const { cluster_nodes } = settings;
  const nodes = cluster_nodes.length > 0 ? cluster_nodes : [settings];
  const rootNodes = nodes.map(({ host, port }) => ({
    ...options,
    socket: { ...options.socket, host, port },
  }));
  const maxCommandRedirections = maxRedirections;
  return createCluster({ RESP: 2, rootNodes, defaults: options, maxCommandRedirections });
}

type ClientOptions = Awaited<ReturnType<typeof buildClientOptions>>;

/** Returns the options of every connection, including connections to other nodes of a cluster. */
async function buildClientOptions(settings: RedisSettings) {
  const { password, username, retry_attempts, retry_delay } = settings;
  const socket: RedisTcpSocketOptions = {
    ...(usesTls(settings) && (await readTlsOptions(settings))),
    connectTimeout: connectTimeoutMs,
    reconnectStrategy: (retries: number, cause: Error) =>
      retries >= retry_attempts ? cause : retry_delay * 1000 * 2 ** retries,
  };
  return { socket, ...(password && { username, password }) };
}

async function readTlsOptions(settings: RedisSettings) {
  const read = async (path: string | undefined) => {
    if (path === undefined) return undefined;
    return readFile(path).catch((error: unknown) => {
      throw systemError(error, `cannot read ${path}`);
    });
  };
  const { ssl_certfile, ssl_keyfile, ssl_ca_certs } = settings;
  const [cert, key, ca] = await Promise.all([ssl_certfile, ssl_keyfile, ssl_ca_certs].map(read));
  return {
    tls: true as const,
    ...(cert && { cert }),
    ...(key && { key }),
    ...(ca && { ca }),
    rejectUnauthorized: settings.ssl_cert_reqs !== "none",
    ...(!settings.ssl_check_hostname && { checkServerIdentity: () => undefined }),
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

const refused = (reply: string) => ` refused the command: ${reply}`;

/** The codes of error replies, with the message that follows the URL, and the hint. */
const replyErrors: Readonly<
  Record<string, [kind: ErrorKind, describe: (reply: string) => string, hint?: string]>
> = {
  WRONGPASS: ["wrongPassphrase", () => ": wrong password or unknown user"],
  NOAUTH: [
    "passphraseUnavailable",
    () => " requires a password",
    'With migrate, name the source of the password: --from-password-source or --to-password-source. Other commands read "password" in server.json.',
  ],
  NOPERM: ["io", (reply) => `: permission denied: ${reply}`],
  READONLY: [
    "io",
    () => " is a read-only replica",
    "Set host and port to those of its master (redis-cli INFO replication).",
  ],
  CLUSTERDOWN: [
    "io",
    () => ": the cluster is down: some slots have no master",
    "Start its nodes (redis-cli CLUSTER INFO), then run the command again.",
  ],
  WRONGTYPE: [
    "corrupted",
    (reply) => `: ${reply.replace("WRONGTYPE ", "")}`,
    "Check the key (redis-cli TYPE KEY): another program may use the same prefix.",
  ],
  OOM: ["io", () => " is out of memory"],
  LOADING: ["io", () => " is still loading its data"],
  MISCONF: ["io", refused],
  NOREPLICAS: ["io", refused],
  MASTERDOWN: ["io", refused],
  TRYAGAIN: ["io", refused],
};

function toStoreError(error: unknown, url: string, lastError: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const messages = [error, lastError, (error as Error)?.cause].map((each) => messageOf(each));
  const reply = messages.find(isReply) ?? messages[0] ?? "";
  const [code = ""] = reply.split(" ");
  const known = replyErrors[code];
  if (known) {
    const [kind, describe, hint] = known;
    return new StoreError(kind, `${url}${describe(reply)}`, { cause: error, hint });
  }
  if (/^ERR (?:AUTH|invalid password)/i.test(reply)) {
    return new StoreError("wrongPassphrase", `${url}: the password is rejected`, { cause: error });
  }
  // The error of a command on a closed connection does not contain why the connection was closed.
  const reason = isReply(reply) ? reply : messageOf(lastError) || reply;
  return new StoreError("io", `cannot use Redis at ${url}: ${reason}`, {
    cause: error,
    hint: "Check that it runs and is reachable: redis-cli -h HOST -p PORT ping",
  });
}

function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return messageOf(error.errors[0]);
  if (error instanceof Error) return error.message;
  return error === undefined ? "" : String(error);
}
