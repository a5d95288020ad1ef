/**
 * Servers on loopback, and a configuration of rclone that names them as remotes: rclone's own for
 * WebDAV, SFTP and S3, and OpenSSH, which all serve the same files; one with an object lock.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { appendFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, request, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { root } from "../built.js";
import { currentRclone, interpreter } from "../interop/python.js";

export const serverPassword = "server-password-1f3a9c";

/** Answers a request instead of the server, or not if it returns undefined. */
export type Refusal = (method: string, path: string) => number | undefined;

/** The directory that exists on the servers, which is a bucket of S3. */
export const bucket = "hubs";

const accessKey = "hub-access-key";

/** The servers that serve the same files. */
export const protocols = ["webdav", "sftp", "openssh", "s3"] as const;

export type Protocol = (typeof protocols)[number];

export class Servers {
  readonly #ends: (() => Promise<void>)[] = [];

  private constructor(
    readonly folder: string,
    private readonly ports: Readonly<Record<Protocol, number>>,
  ) {}

  /** Starts the servers for `files`, and sets `RCLONE_CONFIG` for this process. */
  static async start(): Promise<Servers> {
    const folder = await mkdtemp(join(tmpdir(), "hivemind-servers-"));
    const ports = {
      ...{ webdav: await freePort(), sftp: await freePort() },
      ...{ openssh: await freePort(), s3: await freePort() },
    };
    const servers = new Servers(folder, ports);
    await mkdir(join(servers.files, bucket), { recursive: true });
    process.env.RCLONE_CONFIG = join(folder, "rclone.conf");
    // rclone 1.60 refuses S3 with this variable.
    delete process.env.AWS_CA_BUNDLE;
    await writeFile(process.env.RCLONE_CONFIG, "", { mode: 0o600 });
    await Promise.all([
      servers.#serve("webdav", "rclone"),
      servers.#serve("sftp", "rclone"),
      servers.#serve("s3", currentRclone()),
      servers.#serveOpenssh(),
    ]);
    for (const protocol of protocols) await servers.add(protocol, protocol);
    return servers;
  }

  /** The directory that the servers serve. Its subdirectories are the buckets of S3. */
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

  /** Adds a remote for one of the servers, or for another port that is one in its place. */
  async add(
    protocol: Protocol,
    name: string,
    { port = this.ports[protocol], password = serverPassword, scheme = "http" } = {},
  ): Promise<void> {
    const url = `${scheme}://127.0.0.1:${port}`;
    const sftp = { type: "sftp", host: "127.0.0.1", port: `${port}` };
    const settings = {
      webdav: { type: "webdav", vendor: "other", url, user: "hub", pass: obscure(password) },
      sftp: { ...sftp, user: "hub", pass: obscure(password) },
      openssh: {
        ...{ ...sftp, user: userInfo().username },
        key_file: join(this.folder, password === serverPassword ? "user-key" : "other-key"),
        known_hosts_file: join(this.folder, "known-hosts"),
      },
      s3: {
        ...{ type: "s3", provider: "Rclone", endpoint: url, region: "us-east-1" },
        ...{ access_key_id: accessKey, secret_access_key: password, force_path_style: "true" },
      },
    };
    await this.addRemote(name, settings[protocol]);
    if (protocol === "openssh") await this.#know(port, "known-hosts", "host-key.pub");
  }

  /** Adds a remote for OpenSSH's server, with its setting that refuses some requests. */
  async addRefusingOpenssh(name: string, requests: string): Promise<void> {
    const port = await freePort();
    await this.#serveOpenssh(port, `-P ${requests}`);
    await this.add("openssh", name, { port });
  }

  /** Adds a remote for OpenSSH's server whose host key is not the one that is known. */
  async addForeignHost(name: string): Promise<void> {
    await this.#know(this.ports.openssh, "foreign-hosts", "other-key.pub");
    await this.addRemote(name, {
      ...{ type: "sftp", host: "127.0.0.1", port: `${this.ports.openssh}` },
      ...{ user: userInfo().username, key_file: join(this.folder, "user-key") },
      known_hosts_file: join(this.folder, "foreign-hosts"),
    });
  }

  async #know(port: number, hosts: string, publicKey: string): Promise<void> {
    const key = await readFile(join(this.folder, publicKey), "utf8");
    await appendFile(join(this.folder, hosts), `[127.0.0.1]:${port} ${key}`);
  }

  /** Adds a remote for a WebDAV server with a certificate that nobody has signed. */
  async addUntrusted(name: string): Promise<void> {
    const [key, certificate] = [join(this.folder, "tls-key"), join(this.folder, "tls-certificate")];
    const args = [
      ...["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
      ...["-subj", "/CN=nas", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"],
      ...["-keyout", key, "-out", certificate],
    ];
    execFileSync("openssl", args, { stdio: "pipe" });
    const port = await freePort();
    await this.#serve("webdav", "rclone", port, ["--cert", certificate, "--key", key]);
    await this.add("webdav", name, { port, scheme: "https" });
  }

  /**
   * Adds remotes for a bucket named `locked` whose object lock keeps each version for 30 days:
   * `writer`, whose key may write, read and list, and `owner`, whose key may do everything.
   */
  async addObjectLock(): Promise<void> {
    const server = spawn(interpreter("services"), [`${root}test/copies/object-lock.py`], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#endWith(server);
    const [output] = (await once(server.stdout, "data")) as [Buffer];
    const { port, keys } = JSON.parse(output.toString()) as {
      port: number;
      keys: Record<string, { id: string; secret: string }>;
    };
    for (const [user, { id, secret }] of Object.entries(keys)) {
      await this.addRemote(user, {
        ...{ type: "s3", provider: "Other", region: "us-east-1" },
        ...{ endpoint: `http://127.0.0.1:${port}`, force_path_style: "true" },
        ...{ access_key_id: id, secret_access_key: secret },
      });
    }
  }

  /** Adds a remote for the WebDAV server behind a proxy that refuses some requests. */
  async addRefusing(name: string, refuses: Refusal): Promise<void> {
    await this.addWatched("webdav", name, { refuses });
  }

  /**
   * Adds a remote for a server behind a proxy.
   *
   * @param watch - `refuses` is called for each request, and `answered` when its answer is complete
   *   and before it is passed on
   */
  async addWatched(
    protocol: "webdav" | "s3",
    name: string,
    { refuses, answered }: { readonly refuses: Refusal; readonly answered?: () => void },
  ): Promise<void> {
    const proxy = createServer((incoming, answer) => {
      const { method = "", url = "", headers } = incoming;
      const status = refuses(method, url);
      if (status !== undefined) {
        incoming.resume();
        answer.writeHead(status).end("\u001b[31mrefused\u001b[0m");
        return;
      }
      const options = { host: "127.0.0.1", port: this.ports[protocol], method, path: url };
      // The server compares the host in `Destination` or in the signature with that of the request.
      const passed = request({ ...options, headers }, async (response) => {
        const chunks: Buffer[] = [];
        for await (const chunk of response) chunks.push(chunk);
        answered?.();
        answer.writeHead(response.statusCode ?? 500, response.headers).end(Buffer.concat(chunks));
      });
      passed.on("error", () => answer.destroy());
      incoming.on("error", () => passed.destroy()).pipe(passed);
    });
    await this.add(protocol, name, { port: await this.#listen(proxy) });
  }

  /** Adds a remote for a server whose connections are cut after some bytes. */
  async addCut(
    protocol: Protocol,
    name: string,
    { bytesTo = Number.POSITIVE_INFINITY, bytesFrom = Number.POSITIVE_INFINITY },
  ): Promise<void> {
    const proxy = createTcpServer((client) => {
      const server = connect(this.ports[protocol], "127.0.0.1");
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
    await this.add(protocol, name, { port: await this.#listen(proxy as unknown as Server) });
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
    await this.add("webdav", name, { port: await this.#listen(server as unknown as Server) });
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

  async #serve(
    protocol: "webdav" | "sftp" | "s3",
    rclone: string,
    port = this.ports[protocol],
    options: readonly string[] = [],
  ): Promise<void> {
    const cache = ["--dir-cache-time", "1ms", ...options];
    const child = spawn(rclone, ["serve", protocol, ...cache, this.files], {
      stdio: "ignore",
      env: {
        ...process.env,
        RCLONE_ADDR: `127.0.0.1:${port}`,
        ...(protocol === "s3"
          ? { RCLONE_AUTH_KEY: `"${accessKey},${serverPassword}"` }
          : { RCLONE_USER: "hub", RCLONE_PASS: serverPassword }),
        RCLONE_CACHE_DIR: join(this.folder, "cache"),
      },
    });
    this.#endWith(child);
    await untilListening(port);
  }

  /** @param options - of the server of SFTP in OpenSSH */
  async #serveOpenssh(port = this.ports.openssh, options = ""): Promise<void> {
    const file = (name: string) => join(this.folder, name);
    for (const name of ["host-key", "user-key", "other-key"]) {
      if (existsSync(file(name))) continue;
      execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", file(name)]);
    }
    const settings = file(`sshd-${port}.conf`);
    await writeFile(
      settings,
      [
        ...[`Port ${port}`, "ListenAddress 127.0.0.1", `HostKey ${file("host-key")}`],
        ...["PidFile none", "UsePAM no", "StrictModes no", "PasswordAuthentication no"],
        ...[`AuthorizedKeysFile ${file("user-key.pub")}`, "Subsystem sftp internal-sftp"],
        ...[`ForceCommand internal-sftp -d ${this.files} ${options}`, ""],
      ].join("\n"),
    );
    await mkdir("/run/sshd", { recursive: true });
    this.#endWith(spawn("/usr/sbin/sshd", ["-D", "-e", "-f", settings], { stdio: "ignore" }));
    await untilListening(port);
  }

  #endWith(child: ChildProcess): void {
    this.#ends.push(async () => {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    });
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
