"""Talk to a machine by its control socket: HTTP with JSON."""
import http.client
import json
import os
import pathlib
import socket

LIMIT = 600  # seconds for an answer


class Unix(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path):
        super().__init__('trapeze', timeout=LIMIT)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        self.sock.connect(self.path)


def ask(name, method, resource, body=None):
    """A request to the machine of that name; returns the status and the answer."""
    connection = Unix(pathlib.Path(os.environ['XDG_STATE_HOME']) / 'trapeze' / name / 'control.sock')
    connection.request(method, resource, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())
