/** Addresses of the session bus as systems set them, and as they can be damaged. */
import { expect, test } from "vitest";
import { sessionBusAddresses } from "../../src/dbus/address.js";

const runtime = { XDG_RUNTIME_DIR: "/run/user/1000" };

function addresses(DBUS_SESSION_BUS_ADDRESS: string) {
  return sessionBusAddresses({ ...runtime, DBUS_SESSION_BUS_ADDRESS });
}

test("several addresses, each to be tried in turn", () => {
  expect(addresses("unix:path=/a;tcp:host=h,port=1;unix:path=/b,guid=00ff;")).toEqual({
    sockets: ["/a", "/b"],
    unusable: ["tcp:host=h,port=1: unsupported transport tcp"],
  });
});

test("an empty variable is none: the bus is systemd's", () => {
  expect(addresses("")).toEqual({ sockets: ["/run/user/1000/bus"], unusable: [] });
  expect(addresses("unix:runtime=yes").sockets).toEqual(["/run/user/1000/bus"]);
  expect(sessionBusAddresses({ DBUS_SESSION_BUS_ADDRESS: "" }).unusable).toEqual([
    "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set",
  ]);
});

test("an abstract socket", () => {
  expect(addresses("unix:abstract=/tmp/dbus-x").sockets).toEqual(["\0/tmp/dbus-x"]);
});

test("escapes in a path: valid ones are resolved, others are named", () => {
  expect(addresses("unix:path=/run/b%20us%c3%a4").sockets).toEqual(["/run/b usä"]);
  for (const bad of ["%ff", "%zz", "%", "%0", "%00"]) {
    expect(addresses(`unix:path=/run/${bad}`)).toEqual({
      sockets: [],
      unusable: [`unix:path=/run/${bad}: invalid %-escape, or not UTF-8`],
    });
  }
});

test.each([
  [";", ";: not an address"],
  ["/run/bus", "/run/bus: not an address"],
  ["unix:", "unix:: not an address"],
  ["unix:path", "unix:path: not an address"],
  ["unix:tmpdir=/tmp", "unix:tmpdir=/tmp: no socket path"],
  ["autolaunch:", "autolaunch:: unsupported transport autolaunch"],
])("not the address of a bus: %s", (text, problem) => {
  expect(addresses(text)).toEqual({ sockets: [], unusable: [problem] });
});
