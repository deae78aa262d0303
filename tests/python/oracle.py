"""What the oracles share: the command line, a listener that repeats what a client says, and what is told of a picture.

An oracle is a vendor's own client. `run` gives it three modes, each with a request on standard input and one JSON value
on standard output:

    generate   what the client reads of the reply
    body       what the client sends
    errors     what the client makes of each way to fail

A request is `{"model", "prompt", "inputs"?: [{"media_type", "data_base64", "caption"?}], "seed"?, …}`; each oracle says
what else it takes.
"""

import argparse
import base64
import hashlib
import http.server
import json
import sys
import threading


def run(description, apis, send, report, failures, answer):
    """`send(api, base_url, request)` asks for a picture, `report` tells what came of it, `failures(api, base_url, request)`
    tells of every way to fail, and `answer` is what the listener says, for the client to be content."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="where the fake listens")
    parser.add_argument("api", choices=apis)
    parser.add_argument("mode", choices=["generate", "body", "errors"])
    given = parser.parse_args()
    if given.mode != "body" and not given.base_url:
        parser.error("this mode needs --base-url")
    request = json.load(sys.stdin)
    if given.mode == "generate":
        said = report(send(given.api, given.base_url, request))
    elif given.mode == "body":
        said = heard(lambda base_url: send(given.api, base_url, request), answer)
    else:
        said = failures(given.api, given.base_url, request)
    json.dump(said, sys.stdout, indent=2)
    print()


def heard(speak, answer):
    """Lets a client speak to a listener of our own and repeats the first thing it said."""
    calls = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            calls.append({
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body_base64": base64.b64encode(raw).decode(),
            })
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        speak(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    return calls[0]


def pictures(request):
    """Caption, bytes and media type of every picture in a request."""
    for given in request.get("inputs", []):
        yield given.get("caption"), base64.b64decode(given["data_base64"]), given["media_type"]


def told(data):
    """What is told of a picture; of a PNG also its pixels."""
    said = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if data.startswith(b"\x89PNG"):
        said["width"] = int.from_bytes(data[16:20], "big")
        said["height"] = int.from_bytes(data[20:24], "big")
    return said
