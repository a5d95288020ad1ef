"""Stands for the assistant: a message bus that answers each utterance with "echo ...".

It listens on the port of the assistant's bus. A message from one of its clients goes to all the others, as on the
real bus.
"""
import asyncio
import json

import tornado.web
import tornado.websocket

clients = set()


class Core(tornado.websocket.WebSocketHandler):
    def open(self):
        clients.add(self)

    def on_close(self):
        clients.discard(self)

    def on_message(self, message):
        self.send_to_others(message)
        request = json.loads(message)
        if request["type"] == "recognizer_loop:utterance":
            context = dict(request.get("context") or {})
            context["source"], context["destination"] = context.get("destination"), context.get("source")
            data = {"utterance": "echo " + request["data"]["utterances"][0]}
            self.write_message(json.dumps({"type": "speak", "data": data, "context": context}))

    def send_to_others(self, message):
        for client in clients - {self}:
            client.write_message(message)


async def main():
    tornado.web.Application([("/core", Core)]).listen(8181, "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
