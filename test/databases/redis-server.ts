/** Real Redis servers on loopback, each on a port and in a folder of its own, gone after the test. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

/** A cluster's nodes also listen on their port + 10000. */
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

/** Takes what puts a server away at the end. */
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

  /** Starts it, or starts it again on what it kept. */
  async resume(): Promise<void> {
    // A run that is itself killed leaves none behind.
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

  /** For where nothing can be waited for. */
  killNow(): void {
    this.#process?.kill("SIGKILL");
  }

  /** Until a command's answer holds `words`. */
  async answers(command: string, words: string): Promise<void> {
    for (let attempt = 0; attempt < 300; attempt++) {
      if (this.cli(...command.split(" ")).includes(words)) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${command} did not come to say ${words}`);
  }

  /** What `redis-cli` answers. */
  cli(...args: string[]): string {
    return execFileSync("redis-cli", ["-p", String(this.port), ...args], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    }).trimEnd();
  }
}

const slots = 16_384;

/** Three masters, each third of the slots on one of them. */
export async function startCluster(atEnd: AtEnd = onTestFinished): Promise<RedisServer[]> {
  const args = [
    ...["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"],
    // What was acknowledged is on disk, so that a killed node comes back with it.
    ...["--appendonly", "yes", "--appendfsync", "always"],
  ];
  const nodes = await Promise.all([1, 2, 3].map(() => RedisServer.start(args, atEnd)));
  // As redis-cli --cluster create does it, which waits for seconds.
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

/** Until a node says that every slot is served. */
export async function clusterIsUp(node: RedisServer): Promise<void> {
  await node.answers("CLUSTER INFO", "cluster_size:3");
  await node.answers("CLUSTER INFO", "cluster_state:ok");
}

/** A cluster for all tests of a file, for `beforeAll`, which calls what it answers after them. */
export async function sharedCluster(use: (port: number) => void): Promise<() => Promise<void>> {
  const putAway: (() => Promise<void>)[] = [];
  const [node] = await startCluster((each) => putAway.push(each));
  use(node?.port ?? 0);
  return async () => {
    await Promise.all(putAway.map((each) => each()));
  };
}
