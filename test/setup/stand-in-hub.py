"""Opens the database that server.json names, as the hub does, and keeps it open.

It stands for the hub where a test starts one many times: the real one needs seconds for its imports. What it
opened is written to the file in HUB_STATUS as "MODULE CLIENTS". If run gave it the passphrase, and there is a file
HUB_ENCRYPTED, it exits or waits as the file says.
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
    is_given_passphrase = "hivemind-core" in file.read()
if is_given_passphrase and os.path.exists(os.environ["HUB_ENCRYPTED"]):
    with open(os.environ["HUB_ENCRYPTED"]) as file:
        if file.read() == "exit":
            sys.exit("the encrypted store cannot be opened")
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
