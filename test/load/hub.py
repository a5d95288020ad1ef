"""The same as hub.mjs by the real plugin: SQLiteDB of hivemind-sqlite-database through sqlcipher3, its passphrase from
secret-tool. Usage: python hub.py STORE CLIENTS PROGRESS RUNS"""
import json, os, resource, signal, struct, subprocess, sys, time
from hivemind_plugin_manager.database import Client
from hivemind_sqlite_database import SQLiteDB

store, clients, progress_path, runs_path = sys.argv[1:]
count, every = int(clients), 50


def note(what):
    with open(runs_path, "a") as runs:
        runs.write(json.dumps(what) + "\n")


passphrase = subprocess.check_output(
    ["secret-tool", "lookup", "service", "hivemind-sqlcipher", "account", store], text=True)
database = SQLiteDB(name="clients", subfolder=os.path.dirname(store), password=passphrase)
found = int(max(max((client.last_seen for client in database), default=0), 0))
progress = os.open(progress_path, os.O_RDWR | os.O_CREAT, 0o600)
running = True


def stop(*_):
    global running
    running = False


signal.signal(signal.SIGTERM, stop)
note({"found": found, "at": round(time.time() * 1000)})
subprocess.run(["systemd-notify", "--ready"])
turn, longest, looked = found, 0.0, time.monotonic()
try:
    while running:
        number = turn + 1
        if number % every == 0:
            client = Client(client_id=count + number // every, api_key=f"key {number}", name="satellite", last_seen=number)
        else:
            client_id = number % (count - 1) + 1
            client = Client(client_id=client_id, api_key=f"key of {client_id}", name="satellite", last_seen=number)
        began = time.monotonic()
        if not database.add_item(client):
            raise RuntimeError("add_item answers False")
        database.commit()
        longest = max(longest, time.monotonic() - began)
        turn = number
        os.pwrite(progress, struct.pack(">d", turn), 0)
        if time.monotonic() - looked > 1:
            looked = time.monotonic()
            with open("/proc/self/statm") as statm:
                rss = int(statm.read().split()[1]) * resource.getpagesize()
            note({"rss": rss, "descriptors": len(os.listdir("/proc/self/fd"))})
except Exception as error:
    note({"error": repr(error)})
at = round(time.time() * 1000)
database.close()
note({"committed": turn, "at": at, "longest_ms": round(longest * 1000)})
