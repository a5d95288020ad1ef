/**
 * Imports compiled modules. A module that starts a process finds its program next to it in dist/.
 */
export const root = new URL("..", import.meta.url).pathname;

/** Imports a module of dist/: `built<typeof import("../src/a/b.js")>("a/b.js")`. */
export async function built<Module>(path: string): Promise<Module> {
  return (await import(`${root}dist/${path}`)) as Module;
}

/** Returns the path of a bundled program of the tests: "swap/driver". */
export function testProgram(name: string): string {
  return `${root}dist/test/${name.replace("/", "-")}.js`;
}
