import type { Command } from "commander";
import { addCommandGroup } from "../context.js";
import { addInstall } from "./schedule-install.js";
import { addRemove } from "./schedule-remove.js";
import { addStatus } from "./schedule-status.js";

export function addCommand(program: Command): void {
  const schedule = addCommandGroup(
    program,
    "schedule",
    "backups by the clock: a systemd user timer",
  );
  addInstall(schedule);
  addRemove(schedule);
  addStatus(schedule);
}
