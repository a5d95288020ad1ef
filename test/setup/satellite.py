"""A satellite with HiveMind's own client: it speaks four times a second, and writes the time of each reply.

satellite.py ACCESS_KEY PASSWORD LOG
"""
import sys
import threading
import time

from hivemind_bus_client import HiveMessageBusClient
from hivemind_bus_client.identity import NodeIdentity
from ovos_bus_client import Message

access_key, password, path = sys.argv[1:]
log = open(path, "w", buffering=1)
host, port = "ws://127.0.0.1", 5678
identity = NodeIdentity()
identity.access_key, identity.password = access_key, password
identity.default_master, identity.default_port, identity.site_id = host, port, "test"
satellite = HiveMessageBusClient(
    key=access_key, password=password, host=host, port=port, identity=identity, useragent="test", self_signed=True
)
satellite.on_mycroft("speak", lambda message: print(time.time(), file=log))
threading.Thread(target=lambda: satellite.connect(site_id="test"), daemon=True).start()
while True:
    time.sleep(0.25)
    if satellite.handshake_event.is_set():
        try:
            satellite.emit_mycroft(Message("recognizer_loop:utterance", {"utterances": ["hello"]}, {}))
        except Exception:
            pass  # while the hub is away; the client reconnects by itself
