/**
 * One Redis server or a cluster of them, spoken to in the same few ways, its errors in the project's words.
 *
 * Commands that are sent in one turn of the event loop travel together, so a batch costs one round trip a node. Every
 * wait has an end: for the connection, for an answer, and for the number of times that either is tried again.
 */
import { readFile } from "node:fs/promises";
import type { RedisTcpSocketOptions } from "@redis/client/dist/lib/client/socket.js";
import { StoreError, systemError } from "../errors.js";

/** What HiveMind's Redis plugin takes from `server.json` to reach its server. */
export interface RedisEndpoint {
  host: string;
  port: number;
  db: number;
  username: string;
  password: string | undefined;
  clusterNodes: readonly { host: string; port: number }[];
  tls: RedisTls | undefined;
  /** How often a lost connection is tried again, and the first wait in seconds; it doubles each time. */
  retryAttempts: number;
  retryDelay: number;
}

export interface RedisTls {
  certfile: string | undefined;
  keyfile: string | undefined;
  caCerts: string | undefined;
  /** `none` takes any certificate. */
  certReqs: "required" | "optional" | "none";
  checkHostname: boolean;
}

/** As HiveMind's plugin waits. */
const connectTimeoutMs = 5_000;
/** A batch of some hundred records is answered in milliseconds; a cluster may look for its new master meanwhile. */
const answerTimeoutMs = 15_000;
/** Following a slot that moves; a cluster in good order needs one. */
const maxRedirections = 5;
/** How many hash slots a cluster has: every key is in one, and every slot has a master while all is well. */
const slotsOfCluster = 16_384;

/** Keys that one look at the key space takes: some milliseconds, in which the server does nothing else. */
const scanCount = 5_000;

type Single = Awaited<ReturnType<typeof singleClient>>;
type Cluster = Awaited<ReturnType<typeof clusterClient>>;

/** `redis://user@host:port/db`: what the messages say, and the keyring's account. No password is in it. */
export function redisUrl(place: RedisEndpoint): string {
  const { host, port } = place.clusterNodes[0] ?? place;
  const scheme = place.tls === undefined ? "redis" : "rediss";
  const name = host.includes(":") ? `[${host}]` : host;
  return `${scheme}://${encodeURIComponent(place.username)}@${name}:${port}/${place.db}`;
}

export class RedisConnection {
  readonly url: string;
  readonly #single: Single | undefined;
  readonly #cluster: Cluster | undefined;
  /** What the connection itself ran into last: a command that fails for it says only that it is closed. */
  readonly #trouble: Trouble;

  private constructor(
    url: string,
    server: { single?: Single; cluster?: Cluster },
    trouble: Trouble,
  ) {
    this.url = url;
    this.#single = server.single;
    this.#cluster = server.cluster;
    this.#trouble = trouble;
  }

  /**
   * Connects, and finds out whether it is a cluster, as HiveMind's plugin does.
   *
   * @throws StoreError `io` if nobody answers, `wrongPassphrase` or `passphraseUnavailable` if the password is not taken
   *   or is missing.
   */
  static async open(place: RedisEndpoint): Promise<RedisConnection> {
    const url = redisUrl(place);
    const options = await clientOptions(place);
    if (place.clusterNodes.length === 0) {
      const single = await singleClient(place, options);
      const connection = await RedisConnection.#connected(url, { single });
      if (!(await connection.#isOfCluster())) return connection;
      await connection.close();
    }
    const cluster = await clusterClient(place, options);
    const connection = await RedisConnection.#connected(url, { cluster });
    if (Object.keys(cluster.slots).length === slotsOfCluster) return connection;
    await connection.close();
    throw redisError(new Error("CLUSTERDOWN"), url, undefined);
  }

  async #isOfCluster(): Promise<boolean> {
    try {
      return /^cluster_enabled:1/m.test(String(await this.send("", ["INFO", "cluster"])));
    } catch (error) {
      // Left open, it would keep the process from ending.
      await this.close();
      throw error;
    }
  }

  get isCluster(): boolean {
    return this.#cluster !== undefined;
  }

  /**
   * Sends one command to whoever serves `key`.
   *
   * @throws StoreError in words for what the server or the network has against it.
   */
  async send(key: string, command: string[]): Promise<unknown> {
    return this.#answer(this.#sent(key, command));
  }

  /** The same for several, which travel together; answers in their order. */
  async sendAll(commands: readonly { key: string; command: string[] }[]): Promise<unknown[]> {
    return this.#answer(Promise.all(commands.map(({ key, command }) => this.#sent(key, command))));
  }

  #sent(key: string, command: string[]): Promise<unknown> | undefined {
    return this.#cluster === undefined
      ? this.#single?.sendCommand<unknown>(command)
      : this.#cluster.sendCommand<unknown>(key, false, command);
  }

  /** All keys that match a pattern, some hundred at a time; one that moves meanwhile may come twice. */
  async *scan(pattern: string): AsyncGenerator<string[]> {
    for (const node of await this.#answer(this.#nodes())) {
      let cursor = "0";
      do {
        const command = ["SCAN", cursor, "MATCH", pattern, "COUNT", String(scanCount)];
        const [next, keys] = await this.#answer(node.sendCommand<[string, string[]]>(command));
        if (keys.length > 0) yield keys;
        cursor = next;
      } while (cursor !== "0");
    }
  }

  async close(): Promise<void> {
    // What was sent has been answered; a server that is gone need not be waited for.
    if (this.#single?.isOpen) this.#single.destroy();
    if (this.#cluster?.isOpen) this.#cluster.destroy();
  }

  async #nodes(): Promise<Single[]> {
    const cluster = this.#cluster;
    if (cluster === undefined) return this.#single === undefined ? [] : [this.#single];
    return Promise.all(cluster.masters.map((master) => cluster.nodeClient(master)));
  }

  async #answer<Answer>(sent: Promise<Answer> | undefined): Promise<Answer> {
    try {
      return await withinTime(sent);
    } catch (error) {
      throw redisError(error, this.url, this.#trouble.last);
    }
  }

  static async #connected(
    url: string,
    server: { single?: Single; cluster?: Cluster },
  ): Promise<RedisConnection> {
    const trouble: Trouble = { last: undefined };
    const client = server.single ?? server.cluster;
    client?.on("error", (error: unknown) => {
      trouble.last = error;
    });
    const connection = new RedisConnection(url, server, trouble);
    try {
      await withinTime<unknown>(client?.connect());
      return connection;
    } catch (error) {
      await connection.close();
      throw redisError(error, url, trouble.last);
    }
  }
}

interface Trouble {
  last: unknown;
}

async function singleClient(place: RedisEndpoint, options: ClientOptions) {
  const { createClient } = await import("@redis/client");
  const { host, port, db } = place;
  const socket = { ...options.socket, host, port };
  return createClient({ ...options, RESP: 2, database: db, socket });
}

async function clusterClient(place: RedisEndpoint, options: ClientOptions) {
  const { createCluster } = await import("@redis/client");
  const nodes = place.clusterNodes.length > 0 ? place.clusterNodes : [place];
  const rootNodes = nodes.map(({ host, port }) => ({
    ...options,
    socket: { ...options.socket, host, port },
  }));
  const maxCommandRedirections = maxRedirections;
  return createCluster({ RESP: 2, rootNodes, defaults: options, maxCommandRedirections });
}

type ClientOptions = Awaited<ReturnType<typeof clientOptions>>;

/** What holds for every connection, also those to nodes that a cluster names. */
async function clientOptions(place: RedisEndpoint) {
  const { password, username, retryAttempts, retryDelay } = place;
  const socket: RedisTcpSocketOptions = {
    ...(place.tls && (await tlsOptions(place.tls))),
    connectTimeout: connectTimeoutMs,
    reconnectStrategy: (retries: number, cause: Error) =>
      retries >= retryAttempts ? cause : retryDelay * 1000 * 2 ** retries,
  };
  return { socket, ...(password !== undefined && { username, password }) };
}

async function tlsOptions(tls: RedisTls) {
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

async function withinTime<Answer>(sent: Promise<Answer> | undefined): Promise<Answer> {
  if (sent === undefined) throw new Error("the connection is closed");
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no answer within ${answerTimeoutMs / 1000} seconds`)),
      answerTimeoutMs,
    );
  });
  try {
    return await Promise.race([sent, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The first word of an error that Redis answers says which it is. */
function isReply(message: string): boolean {
  return /^[A-Z]{3,} /.test(message);
}

function redisError(error: unknown, url: string, trouble: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const messages = [error, trouble, (error as Error)?.cause].map((each) => messageOf(each));
  const told = messages.find(isReply) ?? messages[0] ?? "";
  const [word = ""] = told.split(" ");
  const options = { cause: error };
  switch (word) {
    case "WRONGPASS":
      return new StoreError("wrongPassphrase", `${url}: wrong password, or no such user`, options);
    case "NOAUTH":
      return new StoreError("passphraseUnavailable", `${url} asks for a password`, {
        ...options,
        hint: "keep it in the keyring or a file, and name where: --to-password-source or --from-password-source",
      });
    case "NOPERM":
      return new StoreError("io", `${url}: its user has no permission: ${told}`, options);
    case "READONLY":
      return new StoreError("io", `${url} is a replica that cannot be written`, {
        ...options,
        hint: "name its master instead (redis-cli INFO replication says which)",
      });
    case "CLUSTERDOWN":
      return new StoreError("io", `${url}: the cluster is down: a part of it has no master`, {
        ...options,
        hint: "bring its nodes back (redis-cli CLUSTER INFO), then run this again",
      });
    case "WRONGTYPE":
      return new StoreError("corrupted", `${url}: ${told.slice(word.length + 1)}`, {
        ...options,
        hint: "the prefix may be another program's: redis-cli TYPE KEY says what is there",
      });
    case "OOM":
      return new StoreError("io", `${url} has no memory left for more`, options);
    case "LOADING":
      return new StoreError("io", `${url} is still loading its data`, options);
    case "MISCONF":
    case "NOREPLICAS":
    case "MASTERDOWN":
    case "TRYAGAIN":
      return new StoreError("io", `${url} refuses: ${told}`, options);
  }
  if (/^ERR (?:AUTH|invalid password)/i.test(told)) {
    return new StoreError("wrongPassphrase", `${url}: the password is not taken`, options);
  }
  // A closed connection says no more than that; why it was closed came before.
  const reason = isReply(told) ? told : messageOf(trouble) || told;
  return new StoreError("io", `cannot work with Redis at ${url}: ${reason}`, {
    ...options,
    hint: "see that it runs and can be reached: redis-cli -h HOST -p PORT ping",
  });
}

function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return messageOf(error.errors[0]);
  if (error instanceof Error) return error.message;
  return error === undefined ? "" : String(error);
}
