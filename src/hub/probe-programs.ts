/** The Python programs that test the packages of the hub. */
import { sqliteModule } from "./server-json.js";

/**
 * Precedes every program. Only the result goes to standard output; the packages' logs go to
 * standard error. `answer` ends the process with `os._exit`, because some packages leave threads
 * behind.
 */
export const prelude = `
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
import importlib.metadata, json, os

output = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
home = sys.argv[1]
for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "TMPDIR"):
    os.environ[name] = home

def answer(value):
    output.write(json.dumps(value))
    output.flush()
    os._exit(0)

def write_server_json(settings):
    os.makedirs(os.path.join(home, "hivemind-core"))
    path = os.path.join(home, "hivemind-core", "server.json")
    with open(path, "w") as file:
        json.dump(settings, file)
    return path

module = "${sqliteModule}"
block = {"name": "probe", "subfolder": "hivemind-core", "password": "probe"}
database = {"module": module, module: block}
`;

export const packagesProgram = `
def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

found = {
    "pluginManager": version("hivemind-plugin-manager"),
    "sqlitePlugin": version("hivemind-sqlite-database"),
    "schemaVersion": None,
    "writtenSchema": None,
    "cipherVersion": None,
    "takesPassword": False,
    "problem": None,
    "paths": sys.path,
}
try:
    import sqlcipher3
    row = sqlcipher3.connect(":memory:").execute("PRAGMA cipher_version").fetchone()
    found["cipherVersion"] = row[0] if row else None
except Exception:
    pass
try:
    from hivemind_plugin_manager.database import AbstractDB
    found["schemaVersion"] = getattr(AbstractDB, "SCHEMA_VERSION", None)
    from hivemind_core.config import get_server_config
    from hivemind_core.database import ClientDatabase
    write_server_json({"network_protocol": {}, "database": database})
    with ClientDatabase(get_server_config()["database"]) as opened:
        len(opened.db)
    path = os.path.join(home, "hivemind-core", "probe.db")
    with open(path, "rb") as file:
        found["takesPassword"] = not file.read(16).startswith(b"SQLite format 3")
    if found["takesPassword"] and found["cipherVersion"] is not None:
        store = sqlcipher3.connect(path)
        store.execute("PRAGMA key = 'probe'")
        found["writtenSchema"] = store.execute("PRAGMA user_version").fetchone()[0]
except BaseException as error:
    found["problem"] = type(error).__name__ + ": " + str(error)
answer(found)
`;

export const completionProgram = `
path = write_server_json({"database": database})
with open(path) as file:
    before = file.read()
from hivemind_core.config import get_server_config
get_server_config()
with open(path) as file:
    answer(file.read() != before)
`;

export const moduleProgram = `
try:
    from hivemind_plugin_manager import DatabaseFactory
    DatabaseFactory.get_class(json.load(sys.stdin))
    answer(None)
except BaseException as error:
    answer(type(error).__name__ + ": " + str(error))
`;

export const connectionProgram = `
database = json.load(sys.stdin)
try:
    from hivemind_core.database import ClientDatabase
    len(ClientDatabase(database).db)
    answer(None)
except BaseException as error:
    answer(type(error).__name__ + ": " + str(error))
`;

export const clientsProgram = `
request = json.load(sys.stdin)
os.environ["XDG_DATA_HOME"] = request["home"]
from hivemind_core.database import ClientDatabase
clients = ClientDatabase(request["database"])
keys = [client.api_key for client in clients.db]
revoked = keys.count("revoked")
key = request["apiKey"]
answer({"active": len(keys) - revoked, "revoked": revoked, "found": key is None or clients.get_client_by_api_key(key) is not None})
`;
