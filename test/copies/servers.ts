/** rclone's own servers on loopback, and a configuration of rclone that names them as remotes. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, request, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const serverPassword = "server-password-1f3a9c";

/** Answers a request instead of the server, or not if it returns undefined. */
export type Refusal = (method: string, path: string) => number | undefined;

export class Servers {
  readonly #ends: (() => Promise<void>)[] = [];

  private constructor(
    readonly folder: string,
    readonly ports: { readonly webdav: number; readonly sftp: number },
  ) {}

  /** Starts a WebDAV and an SFTP server for `files`, and sets `RCLONE_CONFIG` for this process. */
  static async start(): Promise<Servers> {
    const folder = await mkdtemp(join(tmpdir(), "hivemind-servers-"));
    const ports = { webdav: await freePort(), sftp: await freePort() };
    const servers = new Servers(folder, ports);
    await mkdir(servers.files);
    process.env.RCLONE_CONFIG = join(folder, "rclone.conf");
    await writeFile(process.env.RCLONE_CONFIG, "", { mode: 0o600 });
    await Promise.all([servers.#serve("webdav"), servers.#serve("sftp")]);
    await servers.addWebdav("webdav", ports.webdav);
    await servers.addRemote("sftp", {
      ...{ type: "sftp", host: "127.0.0.1", port: `${ports.sftp}`, user: "hub" },
      pass: obscure(serverPassword),
    });
    return servers;
  }

  /** The directory that both servers serve. */
  get files(): string {
    return join(this.folder, "files");
  }

  async stop(): Promise<void> {
    for (const end of this.#ends) await end();
    await rm(this.folder, { recursive: true });
    delete process.env.RCLONE_CONFIG;
  }

  async addRemote(name: string, settings: Record<string, string>): Promise<void> {
    const lines = Object.entries(settings).map(([key, value]) => `${key} = ${value}`);
    await appendFile(join(this.folder, "rclone.conf"), `[${name}]\n${lines.join("\n")}\n`);
  }

  async addWebdav(name: string, port: number, password = serverPassword): Promise<void> {
    await this.addRemote(name, {
      ...{ type: "webdav", vendor: "other", url: `http://127.0.0.1:${port}`, user: "hub" },
      pass: obscure(password),
    });
  }

  /** Adds a remote for the WebDAV server behind a proxy that refuses some requests. */
  async addRefusing(name: string, refuses: Refusal): Promise<void> {
    const proxy = createServer((incoming, answer) => {
      const { method = "", url = "", headers } = incoming;
      const status = refuses(method, url);
      if (status !== undefined) {
        incoming.resume();
        answer.writeHead(status).end("\u001b[31mrefused\u001b[0m");
        return;
      }
      const options = { host: "127.0.0.1", port: this.ports.webdav, method, path: url };
      // The server compares the host in `Destination` with the host that it is asked under.
      const passed = request({ ...options, headers }, (response) => {
        answer.writeHead(response.statusCode ?? 500, response.headers);
        response.pipe(answer);
      });
      passed.on("error", () => answer.destroy());
      incoming.pipe(passed);
    });
    await this.addWebdav(name, await this.#listen(proxy));
  }

  /** Adds a remote for the WebDAV server whose connections are cut after some bytes. */
  async addCut(name: string, bytesTo: number, bytesFrom: number): Promise<void> {
    const proxy = createTcpServer((client) => {
      const server = connect(this.ports.webdav, "127.0.0.1");
      let sent = 0;
      let received = 0;
      const cut = () => {
        client.destroy();
        server.destroy();
      };
      client.on("data", (chunk) => {
        sent += chunk.length;
        if (sent > bytesTo) cut();
        else server.write(chunk);
      });
      server.on("data", (chunk) => {
        received += chunk.length;
        if (received > bytesFrom) cut();
        else client.write(chunk);
      });
      for (const socket of [client, server]) socket.on("error", cut).on("close", cut);
    });
    await this.addWebdav(name, await this.#listen(proxy as unknown as Server));
  }

  /**
   * Adds a remote whose server accepts connections and never answers.
   *
   * @returns a promise of the first connection, and whether connections are open
   */
  async addSilent(name: string): Promise<{ connected: Promise<unknown>; isOpen: () => boolean }> {
    const sockets = new Set<Socket>();
    const server = createTcpServer((socket) => {
      sockets.add(socket);
      const end = () => sockets.delete(socket);
      socket.on("error", end).on("close", end).resume();
    });
    const connected = once(server, "connection");
    await this.addWebdav(name, await this.#listen(server as unknown as Server));
    return { connected, isOpen: () => sockets.size > 0 };
  }

  async #listen(server: Server): Promise<number> {
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    this.#ends.push(async () => {
      server.closeAllConnections?.();
      server.close();
    });
    return (server.address() as AddressInfo).port;
  }

  async #serve(protocol: "webdav" | "sftp"): Promise<void> {
    const cache = ["--dir-cache-time", "1ms"];
    const child = spawn("rclone", ["serve", protocol, ...cache, this.files], {
      stdio: "ignore",
      env: {
        ...process.env,
        RCLONE_ADDR: `127.0.0.1:${this.ports[protocol]}`,
        RCLONE_USER: "hub",
        RCLONE_PASS: serverPassword,
        RCLONE_CACHE_DIR: join(this.folder, "cache"),
      },
    });
    this.#ends.push(async () => {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    });
    await untilListening(this.ports[protocol]);
  }
}

function obscure(password: string): string {
  return execFileSync("rclone", ["obscure", "-"], { input: password }).toString().trim();
}

async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function untilListening(port: number): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    const isUp = await new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      socket.once("connect", () => socket.destroy());
    });
    if (isUp) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`nothing listens on port ${port}`);
}
