/** Real Redis servers on loopback, each with its own port and directory, removed after the test. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

/** Returns a free port. A cluster's nodes also listen on their port + 10000. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = await listenOn(0);
    if (port < 55_000 && (await listenOn(port + 10_000).catch(() => 0)) !== 0) return port;
  }
}

async function listenOn(wanted: number): Promise<number> {
  const server = createServer().listen(wanted, "127.0.0.1");
  await Promise.race([
    once(server, "listening"),
    once(server, "error").then(([error]) => Promise.reject(error)),
  ]);
  const address = server.address();
  server.close();
  await once(server, "close");
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** Registers a function that removes a server at the end. */
type AtEnd = (putAway: () => Promise<void>) => unknown;

export class RedisServer {
  #process: ChildProcess | undefined;

  private constructor(
    readonly port: number,
    readonly folder: string,
    readonly args: string[],
  ) {}

  static async start(args: string[] = [], atEnd: AtEnd = onTestFinished): Promise<RedisServer> {
    const folder = await mkdtemp(join(tmpdir(), "hivemind-redis-"));
    const server = new RedisServer(await freePort(), folder, args);
    atEnd(async () => {
      await server.kill();
      await rm(folder, { recursive: true, force: true });
    });
    await server.resume();
    return server;
  }

  /** Starts the server, or restarts it with its data. */
  async resume(): Promise<void> {
    // A killed run leaves no server behind.
    const child = spawn("setpriv", [
      ...["--pdeathsig", "KILL", "redis-server"],
      ...["--port", String(this.port), "--bind", "127.0.0.1", "--dir", this.folder],
      ...["--save", "", "--daemonize", "no", ...this.args],
    ]);
    this.#process = child;
    await new Promise<void>((resolve, reject) => {
      let said = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        said += text;
        if (said.includes("Ready to accept connections")) resolve();
      });
      child.once("exit", () => reject(new Error(`redis-server ended: ${said}`)));
    });
  }

  async kill(): Promise<void> {
    const child = this.#process;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  /** Kills the server without waiting. */
  killNow(): void {
    this.#process?.kill("SIGKILL");
  }

  /** Waits until a command's reply contains `words`. */
  async answers(command: string, words: string): Promise<void> {
    for (let attempt = 0; attempt < 300; attempt++) {
      if (this.cli(...command.split(" ")).includes(words)) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${command} did not come to say ${words}`);
  }

  /** Returns the output of `redis-cli`. */
  cli(...args: string[]): string {
    return execFileSync("redis-cli", ["-p", String(this.port), ...args], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    }).trimEnd();
  }
}

const slots = 16_384;

/** Starts three masters, each with a third of the slots. */
export async function startCluster(atEnd: AtEnd = onTestFinished): Promise<RedisServer[]> {
  const args = [
    ...["--cluster-enabled", "yes", "--cluster-node-timeout", "2500"],
    // Acknowledged writes are on disk, so that a killed node restarts with them.
    ...["--appendonly", "yes", "--appendfsync", "always"],
  ];
  const nodes = await Promise.all([1, 2, 3].map(() => RedisServer.start(args, atEnd)));
  // Does the same as redis-cli --cluster create, which waits for seconds.
  const [first] = nodes;
  const third = Math.ceil(slots / nodes.length);
  for (const [index, node] of nodes.entries()) {
    const last = Math.min(slots, (index + 1) * third) - 1;
    node.cli("CLUSTER", "ADDSLOTSRANGE", String(index * third), String(last));
    node.cli("CLUSTER", "SET-CONFIG-EPOCH", String(index + 1));
    first?.cli("CLUSTER", "MEET", "127.0.0.1", String(node.port));
  }
  for (const node of nodes) await clusterIsUp(node);
  return nodes;
}

/** Waits until a node reports that every slot is served. */
export async function clusterIsUp(node: RedisServer): Promise<void> {
  await node.answers("CLUSTER INFO", "cluster_size:3");
  await node.answers("CLUSTER INFO", "cluster_state:ok");
}

/**
 * Starts a cluster for all tests of a file in `beforeAll`. Returns the function to stop it
 * afterwards.
 */
export async function sharedCluster(use: (port: number) => void): Promise<() => Promise<void>> {
  const putAway: (() => Promise<void>)[] = [];
  const [node] = await startCluster((each) => putAway.push(each));
  use(node?.port ?? 0);
  return async () => {
    await Promise.all(putAway.map((each) => each()));
  };
}
