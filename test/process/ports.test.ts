import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { listListeningPorts, waitUntilListening } from "../../src/process/ports.js";

async function listen(port = 0, host = "127.0.0.1"): Promise<{ server: Server; port: number }> {
  const server = createServer().listen(port, host);
  onTestFinished(() => void server.close());
  await once(server, "listening");
  const address = server.address();
  return { server, port: typeof address === "object" && address ? address.port : 0 };
}

test("the ports of a process are those on which it listens, over IPv4 and IPv6", async () => {
  const four = await listen();
  const six = await listen(0, "::1");
  expect(listListeningPorts(process.pid)).toEqual(expect.arrayContaining([four.port, six.port]));
  four.server.close();
  await once(four.server, "close");
  expect(listListeningPorts(process.pid)).not.toContain(four.port);
});

test("a process that has ended has none", () => {
  expect(listListeningPorts(2 ** 22 + 1)).toEqual([]);
});

test("waits until something listens again", async () => {
  const { server, port } = await listen();
  expect(await waitUntilListening([port], 1_000)).toBeDefined();
  server.close();
  await once(server, "close");
  expect(await waitUntilListening([port], 100)).toBeUndefined();
  const waiting = waitUntilListening([port], 10_000);
  await listen(port);
  expect(await waiting).toBeDefined();
});
