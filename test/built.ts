/** Modules as they were compiled: for those that start a process of their own, which is found beside them in dist/. */
export const root = new URL("..", import.meta.url).pathname;

/** Imports a module of dist/: `built<typeof import("../src/a/b.js")>("a/b.js")`. */
export async function built<Module>(path: string): Promise<Module> {
  return (await import(`${root}dist/${path}`)) as Module;
}
