import type { Command } from "commander";
import { addCommandGroup } from "../command.js";
import { addInstall } from "./schedule-install.js";
import { addRemove } from "./schedule-remove.js";
import { addStatus } from "./schedule-status.js";

export function addCommand(program: Command): void {
  const group = addCommandGroup(program, "schedule", "Schedule backups with a systemd user timer");
  addInstall(group);
  addRemove(group);
  addStatus(group);
}
