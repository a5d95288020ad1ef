"""The peer of bench-bulk.mjs: HiveMind's own plugin. Usage: bench-plugin.py add|lookup|iterate STORE CLIENTS [LOOKUPS]

Prints the seconds that the work took, and the process's peak of memory in MiB.
"""
import hashlib
import json
import resource
import sys
import time

from hivemind_plugin_manager.database import Client
from hivemind_sqlite_database import SQLiteDB

work, store, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])


def text_of(number):
    return hashlib.md5(str(number).encode()).hexdigest()


database = SQLiteDB(db_path=store, password="bench")
keys = []
if work == "lookup":
    keys = [text_of(1 + turn * 611953 % clients) for turn in range(int(sys.argv[4]))]
began = time.monotonic()
if work == "add":
    for client_id in range(1, clients + 1):
        database.add_item(
            Client(
                client_id=client_id,
                api_key=text_of(client_id),
                name=f"HiveMind-Node-{client_id}",
                password=text_of(-client_id),
                metadata={"room": f"room {client_id % 100}"},
            )
        )
    done = len(database)
elif work == "lookup":
    done = sum(database.get_client_by_api_key(key) is not None for key in keys)
else:
    done = sum(1 for client in database)
seconds = time.monotonic() - began
assert done == len(keys or range(clients)), done
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "mebibytes": peak}))
