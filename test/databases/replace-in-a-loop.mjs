// Replaces client 1 by client 2 and back until it is killed. Prints a line when it begins.
import { DatabaseFactory, newClient } from "../../dist/index.js";

const [plugin, config] = process.argv.slice(2);
const database = await DatabaseFactory.create(plugin, JSON.parse(config));
const clients = [1, 2].map((id) =>
  newClient({ client_id: id, api_key: `key-${id}`, name: "hall" }),
);
for (let turn = 0; ; turn++) {
  await database.replaceItem(clients[turn % 2], clients[(turn + 1) % 2]);
  if (turn === 1) console.log("begun");
}
