import { expect, test } from "vitest";
import { parseOrigin } from "../../src/service/origin.js";

const id = "0123456789abcdef".repeat(4);
const inner = "fedcba9876543210".repeat(4);

/** The text of /proc/PID/cgroup on a hybrid system, with systemd's path and the unified path. */
const hybrid = (path: string, unified = path) =>
  `12:pids:${path}\n4:memory:/other.slice\n1:name=systemd:${path}\n0::${unified}\n`;

test.each([
  [
    "a user unit",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/hivemind-listener.service",
    { kind: "systemd-user", unit: "hivemind-listener.service", uid: 1000 },
  ],
  [
    "a group below a unit",
    "/user.slice/user-7.slice/user@7.service/app.slice/hub.service/worker/1",
    { kind: "systemd-user", unit: "hub.service", uid: 7 },
  ],
  [
    "a system unit",
    "/system.slice/hivemind-core.service",
    { kind: "systemd", unit: "hivemind-core.service" },
  ],
  [
    "an instance of a template",
    "/system.slice/system-hivemind.slice/hivemind@main.service",
    { kind: "systemd", unit: "hivemind@main.service" },
  ],
  ["a login session", "/user.slice/user-1000.slice/session-3.scope", undefined],
  ["a terminal", "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-1.scope", undefined],
  ["the top", "/", undefined],
  ["a rootful podman container", `/machine.slice/libpod-${id}.scope`, { kind: "podman", id }],
  [
    "a rootless podman container",
    `/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-${id}.scope/container`,
    { kind: "podman", id },
  ],
  [
    "a podman container in the group of its unit",
    `/user.slice/user-1000.slice/user@1000.service/app.slice/hivemind-listener.service/libpod-payload-${id}`,
    { kind: "podman", id },
  ],
  ["a docker container under systemd", `/system.slice/docker-${id}.scope`, { kind: "docker", id }],
  [
    "a container of a rootless docker",
    `/user.slice/user-1000.slice/user@1000.service/user.slice/docker-${id}.scope`,
    { kind: "docker", id },
  ],
  [
    "a container of a rootless docker without controllers",
    `/user.slice/user-1000.slice/user@1000.service/user.slice/runc-${id}.scope`,
    { kind: "docker", id },
  ],
  ["a docker container under cgroupfs", `/docker/${id}`, { kind: "docker", id }],
  [
    "a unit in a docker container",
    `/system.slice/docker-${id}.scope/system.slice/hub.service`,
    { kind: "docker", id },
  ],
  ["a container in a container", `/docker/${id}/docker/${inner}`, { kind: "docker", id }],
  [
    "podman's monitor, which is not in the container",
    `/system.slice/hub.service/libpod-conmon-${id}.scope`,
    { kind: "systemd", unit: "hub.service" },
  ],
  [
    "the docker daemon",
    "/system.slice/docker.service",
    { kind: "systemd", unit: "docker.service" },
  ],
  [
    "Kubernetes",
    `/kubepods.slice/kubepods-besteffort.slice/cri-containerd-${id}.scope`,
    { kind: "container", engine: "Kubernetes" },
  ],
  [
    "systemd-nspawn",
    "/machine.slice/systemd-nspawn@box.service/payload/system.slice/hub.service",
    { kind: "container", engine: "systemd-machined" },
  ],
  ["LXC", "/lxc.payload.box/system.slice/hub.service", { kind: "container", engine: "LXC" }],
])("the origin of %s", (_, path, origin) => {
  expect(parseOrigin(`0::${path}\n`)).toEqual(origin);
  expect(parseOrigin(hybrid(path))).toEqual(origin);
  expect(parseOrigin(hybrid(path, "/"))).toEqual(origin);
});
