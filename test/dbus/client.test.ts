/** The client against a bus that is not well, and against a real one of another user namespace. */
import { execFile } from "node:child_process";
import { chown } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { Bus, NoBusError } from "../../src/dbus/client.js";
import { encodeCall, type Message, messageType, readMessage } from "../../src/dbus/message.js";
import { root } from "../built.js";
import { OwnBus } from "../keys/own-keyring.js";
import { temporaryFolder } from "../store/temporary.js";

const run = promisify(execFile);
const call = { destination: "a.b", path: "/a", interface: "a.b", member: "M" };

interface Reply {
  readonly type: number;
  readonly signature?: string;
  readonly args?: readonly unknown[];
  readonly errorName?: string;
}

function encodeReply({ type, ...reply }: Reply, replySerial: number): Buffer {
  const bytes = encodeCall(1, { ...call, ...reply, replySerial } as never);
  bytes[1] = type;
  return bytes;
}

/** What a client says before it sends messages. */
const auth = "\0AUTH EXTERNAL\r\n";

class FakeBus {
  readonly lines: string[] = [];

  private constructor(readonly path: string) {}

  /** @param reply - to each call but the first, which is Hello; "close" ends the connection */
  static async start(reply: (call: Message) => Reply | "close"): Promise<FakeBus> {
    const bus = new FakeBus(join(await temporaryFolder(), "bus"));
    const server: Server = createServer((socket) => bus.#serve(socket, reply));
    await new Promise<void>((resolve) => server.listen(bus.path, resolve));
    onTestFinished(() => {
      server.close();
    });
    return bus;
  }

  get address(): { DBUS_SESSION_BUS_ADDRESS: string } {
    return { DBUS_SESSION_BUS_ADDRESS: `unix:path=${this.path}` };
  }

  #serve(socket: Socket, reply: (call: Message) => Reply | "close"): void {
    let received: Buffer = Buffer.alloc(0);
    let hasBegun = false;
    socket.on("error", () => undefined);
    socket.on("data", (data) => {
      received = Buffer.concat([received, data]);
      while (!hasBegun && received.includes("\r\n")) {
        const end = received.indexOf("\r\n");
        const line = received.toString("latin1", 0, end + 2);
        received = received.subarray(end + 2);
        this.lines.push(line);
        hasBegun = line === "BEGIN\r\n";
        if (line === auth) socket.write("DATA\r\n");
        if (line === "DATA\r\n") socket.write("OK 0123456789abcdef0123456789abcdef\r\n");
      }
      for (let found = hasBegun && readMessage(received); found; found = readMessage(received)) {
        received = received.subarray(found.length);
        const answer = reply(found.message);
        if (answer === "close") socket.destroy();
        else socket.write(encodeReply(answer, found.message.serial));
      }
    });
  }
}

const hello: Reply = { type: messageType.reply, signature: "s", args: [":1.1"] };

async function replyTo(reply: Reply, replySignature: string): Promise<unknown> {
  const fake = await FakeBus.start(({ member }) => (member === "Hello" ? hello : reply));
  await using bus = await Bus.session(fake.address);
  return await bus.call(call, replySignature);
}

test("the authentication names no user id", async () => {
  const fake = await FakeBus.start(() => hello);
  await using _bus = await Bus.session(fake.address);
  expect(fake.lines).toEqual([auth, "DATA\r\n", "BEGIN\r\n"]);
});

test("an error without a text has its name", async () => {
  const reply = { type: messageType.error, errorName: "org.example.Error.Odd" };
  await expect(replyTo(reply, "s")).rejects.toThrow("org.example.Error.Odd");
});

test("a reply without a body, or with another type, is refused where a value is expected", async () => {
  const empty = { type: messageType.reply };
  await expect(replyTo(empty, "s")).rejects.toThrow('a reply has the signature "", not "s"');
  const number = { type: messageType.reply, signature: "u", args: [1] };
  await expect(replyTo(number, "s")).rejects.toThrow('a reply has the signature "u", not "s"');
  expect(await replyTo(number, "u")).toEqual([1]);
});

test("a bus of another user accepts the authentication and closes: the error says whose it is", async () => {
  const fake = await FakeBus.start(() => "close");
  await expect(Bus.session(fake.address)).rejects.toMatchObject({ isForeign: false });
  await chown(fake.path, 12345, 12345);
  const error = await Bus.session(fake.address).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(NoBusError);
  expect(error).toMatchObject({
    isForeign: true,
    message: `${fake.path} belongs to the user with id 12345`,
  });
});

test("the second address is used when nothing listens on the first", async () => {
  const fake = await FakeBus.start(() => hello);
  const address = `unix:path=/nonexistent/bus;${fake.address.DBUS_SESSION_BUS_ADDRESS}`;
  await using _bus = await Bus.session({ DBUS_SESSION_BUS_ADDRESS: address });
  expect(fake.lines).toHaveLength(3);
});

test("in a user namespace, where this process's id is another than the bus sees", async () => {
  await using own = await OwnBus.start();
  const script = `
    import { Bus } from ${JSON.stringify(`${root}dist/dbus/client.js`)};
    const bus = await Bus.session(process.env);
    console.log(process.getuid(), (await bus.callBus("NameHasOwner", "a.b", "b"))[0]);
    bus.close();`;
  const { stdout } = await run(
    "unshare",
    ["--user", "--map-user=1234", process.execPath, "--input-type=module", "--eval", script],
    { env: own.environment },
  );
  expect(stdout).toBe("1234 false\n");
});
