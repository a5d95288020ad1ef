"""Runs one of upstream's own test files on stores that this project made, and prints a JSON object of outcomes.

upstream.py sqlite FILE STORE [PASSPHRASE]   where the tests make a database in memory, it is a copy of STORE
upstream.py json FILE STORE                  where they open an empty folder, there is a copy of STORE
upstream.py redis FILE                       their prefixes end in `filled`, and have been filled; REDIS_* says where
"""

import json
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

kind, file, *given = sys.argv[1:]
copies = tempfile.mkdtemp()


class Copies:
    """The database module that the tests see: what they open in memory is a copy of the store."""

    def __init__(self, store, passphrase=None):
        self.store = store
        self.passphrase = passphrase
        if passphrase is None:
            import sqlite3 as module
        else:
            import sqlcipher3 as module
        self.module = module
        self.opened = 0

    def __getattr__(self, name):
        return getattr(self.module, name)

    def connect(self, path, *args, **named):
        assert path == ":memory:"
        self.opened += 1
        copy = os.path.join(copies, f"{self.opened}.db")
        shutil.copy(self.store, copy)
        connection = self.module.connect(copy, *args, **named)
        if self.passphrase is not None:
            quoted = self.passphrase.replace("'", "''")
            connection.execute(f"PRAGMA key = '{quoted}'")
        return connection


class Stores:
    """Puts this project's stores where the tests make their own, and keeps what became of each."""

    def __init__(self):
        self.outcomes = {}
        self.used = 0

    def pytest_collection_modifyitems(self, items):
        for module in {item.module for item in items}:
            if kind == "sqlite":
                self.open_copies(module)
            elif kind == "json":
                self.fill(module)
            else:
                module.uuid4 = lambda: uuid.UUID("f111edf1-11ed-f111-edf1-11edf111edf1")

    def open_copies(self, module):
        make, real = module.make_db, module.sqlite3
        copies = Copies(*given)

        def make_db():
            module.sqlite3 = copies
            try:
                return make()
            finally:
                module.sqlite3 = real
                self.used = copies.opened

        module.make_db = make_db

    def fill(self, module):
        make = module.make_db

        def make_db(tmp_path, *args, **named):
            target = Path(tmp_path) / "hivemind-core" / "clients.json"
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(given[0], target)
                self.used += 1
            return make(tmp_path, *args, **named)

        module.make_db = make_db

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.split("::", 1)[1]
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[name] = report.outcome


stores = Stores()
options = ["--quiet", "--no-header", "--import-mode=prepend", "-p", "no:cacheprovider"]
real, sys.stdout = sys.stdout, sys.stderr
pytest.main([*options, file], plugins=[stores])
shutil.rmtree(copies)
json.dump({"outcomes": stores.outcomes, "used": stores.used}, real)
