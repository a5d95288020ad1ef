/**
 * Runs keytar's calls for another process, which can kill this process: while a dialog is open,
 * keytar blocks a thread, and nothing but SIGKILL ends a process with a blocked thread.
 *
 * Plain JavaScript, because it is started from the sources, the library and the bundled command.
 */
"use strict";

// On SIGUSR1, Node opens a debugger port to every user of this machine.
process.on("SIGUSR1", () => {});
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
process.on("message", async ({ id, method, args }) => {
  try {
    const keytar = require("keytar");
    process.send({ id, result: await keytar[method](...args) });
  } catch (error) {
    process.send({ id, error: { message: error.message, code: error.code } });
  }
});
