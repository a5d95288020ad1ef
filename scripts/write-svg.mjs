/** Draws the text on standard input as a terminal, in SVG. */
import { readFileSync } from "node:fs";

const width = 8.4;
const height = 20;
const margin = 16;
const lines = readFileSync(0, "utf8").trimEnd().split("\n");
const columns = Math.max(...lines.map((line) => line.length));
const escaped = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const size = [columns * width + 2 * margin, lines.length * height + 2 * margin].map(Math.ceil);
const rows = lines.map((line, index) => {
  const colour = line.startsWith("$ ") ? "#7ee787" : "#e6edf3";
  const y = margin + (index + 0.75) * height;
  return `  <text x="${margin}" y="${y}" fill="${colour}" xml:space="preserve">${escaped(line)}</text>`;
});
process.stdout.write(
  [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${size[0]}" height="${size[1]}" font-family="monospace" font-size="14">`,
    "  <title>A backup in a terminal</title>",
    `  <rect width="100%" height="100%" rx="8" fill="#0d1117"/>`,
    ...rows,
    "</svg>",
    "",
  ].join("\n"),
);
