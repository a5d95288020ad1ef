import { expect, test } from "vitest";
import { createTargetReporter } from "../../src/copies/view.js";
import type { Reporter } from "../../src/reporter.js";

test("a reporter of a view asks every kind of question with the names of the remote", async () => {
  const texts: string[] = [];
  const add = (text: string) => void texts.push(text);
  const ask = async (question: string) => add(question);
  const reporter: Reporter = { notice: add, detail: add, confirm: ask };
  const translatePaths = <Value>(value: Value) =>
    String(value).replace("/tmp/x", "rclone:nas:") as Value;
  const asking = createTargetReporter({ ...reporter, confirmOnTerminal: ask }, { translatePaths });
  asking.notice("1 /tmp/x");
  asking.detail("2 /tmp/x");
  await asking.confirm("3 /tmp/x");
  await asking.confirmOnTerminal?.("4 /tmp/x");
  expect(texts).toEqual(["1 rclone:nas:", "2 rclone:nas:", "3 rclone:nas:", "4 rclone:nas:"]);
  expect(createTargetReporter(reporter, { translatePaths }).confirmOnTerminal).toBeUndefined();
});
