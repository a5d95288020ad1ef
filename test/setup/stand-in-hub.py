"""Opens the database that server.json names, as the hub does, and keeps it open.

It stands for the hub where a test starts one many times: the real one needs seconds for its imports. What it
opened is written to the file in HUB_STATUS as "MODULE CLIENTS". A file in HUB_FAULT, if it exists, says on which
database it does not work and how: "encrypted exit", "encrypted wait", "former exit".
"""
import json
import os
import signal
import sqlite3
import sys
import time

if sys.argv[1:] != ["listen"]:
    sys.exit(f"usage: {sys.argv[0]} listen")
config = os.path.join(os.environ["XDG_CONFIG_HOME"], "hivemind-core", "server.json")
with open("/proc/self/mountinfo") as file:
    used = "encrypted" if "hivemind-core" in file.read() else "former"
if os.path.exists(os.environ["HUB_FAULT"]):
    with open(os.environ["HUB_FAULT"]) as file:
        database, fault = file.read().split()
    if (database, fault) == (used, "exit"):
        sys.exit(f"the {used} database cannot be opened")
    if database == used:
        time.sleep(8)
with open(config) as file:
    text = "".join(line for line in file if not line.lstrip().startswith("//"))
database = json.loads(text)["database"]
module = database["module"]
block = database[module]
path = os.path.join(os.environ["XDG_DATA_HOME"], block["subfolder"], block["name"])
if module == "hivemind-json-db-plugin":
    with open(path + ".json") as file:
        clients = [client["api_key"] for client in json.load(file).values()]
else:
    password = block.get("password")
    if password:
        import sqlcipher3

        connection = sqlcipher3.connect(path + ".db")
        connection.execute("PRAGMA key='%s'" % password.replace("'", "''"))
    else:
        connection = sqlite3.connect(path + ".db")
    connection.execute("PRAGMA journal_mode=WAL")
    clients = [key for (key,) in connection.execute("SELECT api_key FROM clients")]
    module += " with password" if password else ""
with open(os.environ["HUB_STATUS"] + ".new", "w") as file:
    print(module, len([key for key in clients if key != "revoked"]), file=file)
os.rename(os.environ["HUB_STATUS"] + ".new", os.environ["HUB_STATUS"])
signal.pause()
