// Draws how long the service is away by the size of its store, from the rows that table.mjs wrote
// to a file: a line for each operation, and one for the manual's script. Both axes are logarithmic.
//
// Usage: chart.mjs JSON >docs/images/downtime.svg
import { readFileSync } from "node:fs";
import { median, sizeName } from "./tools.mjs";

const { date, rows } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const drawn = rows.filter(({ chart }) => chart !== undefined);

const [width, height] = [760, 420];
const plot = { left: 80, right: 560, top: 40, bottom: 360 };
const colours = {
  backup: "#2da44e",
  rotate: "#0969da",
  restore: "#8250df",
  encrypt: "#bf8700",
  decrypt: "#bc4c00",
};
const manual = "#656d76";

/** Returns points of MiB and milliseconds, for each line. */
function linesOf() {
  const lines = new Map();
  const add = (name, colour, mebibytes, ms) => {
    const line = lines.get(name) ?? { name, colour, points: [] };
    line.points.push([mebibytes, ms]);
    lines.set(name, line);
  };
  for (const { chart, ours, peers } of drawn) {
    const { operation, mebibytes } = chart;
    add(operation, colours[operation], mebibytes, median(ours));
    if (operation === "backup") add(peers[0].name, manual, mebibytes, median(peers[0].values));
  }
  return [...lines.values()];
}

const lines = linesOf();
const sizes = [...new Set(lines.flatMap(({ points }) => points.map(([size]) => size)))];
const times = lines.flatMap(({ points }) => points.map(([, ms]) => ms));
const decades = [
  Math.floor(Math.log10(Math.min(...times))),
  Math.ceil(Math.log10(Math.max(...times))),
];
const scale = (value, [from, to], [start, end]) =>
  start + ((Math.log10(value) - from) / Math.max(to - from, 1e-9)) * (end - start);
const extent = [Math.log10(Math.min(...sizes)), Math.log10(Math.max(...sizes))];
const x = (size) => scale(size, extent, [plot.left, plot.right]).toFixed(1);
const y = (ms) => scale(ms, decades, [plot.bottom, plot.top]).toFixed(1);
const timeName = (ms) => (ms < 1000 ? `${ms} ms` : `${ms / 1000} s`);
const ticks = Array.from(
  { length: decades[1] - decades[0] + 1 },
  (_, at) => 10 ** (decades[0] + at),
);

const grid = [
  ...ticks.map(
    (ms) =>
      `<line x1="${plot.left}" x2="${plot.right}" y1="${y(ms)}" y2="${y(ms)}" stroke="#d0d7de"/>` +
      `<text x="${plot.left - 8}" y="${Number(y(ms)) + 4}" text-anchor="end">${timeName(ms)}</text>`,
  ),
  ...sizes.map(
    (size) =>
      `<text x="${x(size)}" y="${plot.bottom + 20}" text-anchor="middle">${sizeName(size)}</text>`,
  ),
];
/** Keeps the names at the ends of the lines apart. */
let lowest = Number.NEGATIVE_INFINITY;
const named = lines
  .map((line) => ({ ...line, end: Number(y(line.points.at(-1)[1])) }))
  .sort((a, b) => a.end - b.end)
  .map(({ name, colour, points, end }) => {
    lowest = Math.max(end, lowest + 16);
    const path = points.map(([size, ms]) => `${x(size)},${y(ms)}`).join(" ");
    const dots = points.map(([size, ms]) => `<circle cx="${x(size)}" cy="${y(ms)}" r="3"/>`);
    return (
      `<g stroke="${colour}" fill="${colour}"><polyline points="${path}" fill="none" stroke-width="2"/>` +
      `${dots.join("")}<text x="${plot.right + 10}" y="${lowest + 4}" stroke="none">${name}</text></g>`
    );
  });
process.stdout.write(
  [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12" fill="#1f2328">`,
    "  <title>How long the service is stopped, by the size of its store</title>",
    `  <rect width="100%" height="100%" fill="#ffffff"/>`,
    `  <text x="${plot.left}" y="22" font-size="14">Service stopped, by the size of its store (${date.slice(0, 10)})</text>`,
    ...[...grid, ...named].map((line) => `  ${line}`),
    "</svg>",
    "",
  ].join("\n"),
);
