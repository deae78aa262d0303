"""Google's own client against the fake Vertex AI: a fake is trusted only as far as the vendor's client has driven it.

    vertex_oracle.py --base-url URL generate < request.json   what Google's client read of the reply
    vertex_oracle.py body                    < request.json   the path and body Google's client sends for it
    vertex_oracle.py --base-url URL errors                    what Google's client makes of each way to fail

A request is `{"model", "prompt", "art_direction"?, "inputs"?: [{"media_type", "data_base64", "caption"?}],
"aspect_ratio"?, "size"?, "mime_type"?, "seed"?, "labels"?}`; one JSON value goes to standard output.
Needs `google-genai` (requirements.txt).
"""

import argparse
import base64
import datetime
import hashlib
import http.server
import json
import sys
import threading

from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials


def client(base_url):
    return genai.Client(
        vertexai=True,
        project="oracle",
        location="global",
        # Never refreshed: it does not expire while anyone watches.
        credentials=Credentials("token", expiry=datetime.datetime(2100, 1, 1)),
        http_options=types.HttpOptions(base_url=base_url, api_version="v1"),
    )


def generate(base_url, request):
    parts = [types.Part.from_text(text=request["prompt"])]
    for given in request.get("inputs", []):
        if given.get("caption"):
            parts.append(types.Part.from_text(text=given["caption"]))
        data = base64.b64decode(given["data_base64"])
        parts.append(types.Part.from_bytes(data=data, mime_type=given["media_type"]))
    image = types.ImageConfig(
        aspect_ratio=request.get("aspect_ratio"),
        image_size=request.get("size"),
        output_mime_type=request.get("mime_type"),
    )
    config = types.GenerateContentConfig(
        response_modalities=["IMAGE"],
        candidate_count=1,
        image_config=image,
        seed=request.get("seed"),
        labels=request.get("labels"),
        # Without a role, as `systemInstruction` has it on the wire.
        system_instruction=types.Content(parts=[types.Part.from_text(text=request["art_direction"])])
        if request.get("art_direction")
        else None,
    )
    contents = [types.Content(role="user", parts=parts)]
    with client(base_url) as google:
        return google.models.generate_content(model=request["model"], contents=contents, config=config)


def report(response):
    """What a reply says, by the client's own reading of it."""
    candidate = response.candidates[0] if response.candidates else None
    parts = (candidate.content.parts or []) if candidate and candidate.content else []
    pictures = [part.inline_data for part in parts if part.inline_data and not part.thought]
    said = {
        "finish_reason": candidate.finish_reason.value if candidate else None,
        "finish_message": candidate.finish_message if candidate else None,
        "block_reason": response.prompt_feedback.block_reason.value if response.prompt_feedback else None,
        "thoughts": sum(1 for part in parts if part.thought),
        "signed": any(part.thought_signature for part in parts),
        "usage": response.usage_metadata.model_dump(mode="json", exclude_none=True) if response.usage_metadata else None,
        "model_version": response.model_version,
        "response_id": response.response_id,
        "create_time": response.create_time.isoformat() if response.create_time else None,
    }
    if pictures:
        picture = pictures[-1]
        said |= {
            "mime_type": picture.mime_type,
            "bytes": len(picture.data),
            "sha256": hashlib.sha256(picture.data).hexdigest(),
        }
        if picture.data.startswith(b"\x89PNG"):
            said["width"] = int.from_bytes(picture.data[16:20], "big")
            said["height"] = int.from_bytes(picture.data[20:24], "big")
    return said


def body(request):
    """Lets the client speak to a listener of our own and repeats what it said."""
    heard = {}

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            heard.update(path=self.path, authorization=self.headers["Authorization"], body=json.loads(raw))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        generate(f"http://127.0.0.1:{server.server_port}", request)
        server.shutdown()
    return heard


def failures(base_url):
    """Each way to fail that a client can tell apart, by the words the fake knows."""
    prompts = {
        "throttle": "A cup [[fault:throttle]]",
        "invalid": "A cup [[fault:invalid]]",
        "unauthenticated": "A cup [[fault:unauthenticated]]",
        "denied": "A cup [[fault:denied]]",
        "internal": "A cup [[fault:internal]]",
        "bad_gateway": "A cup [[fault:status:502]]",
        "unavailable": "A cup [[fault:unavailable]]",
        "cut": "A cup [[fault:cut]]",
        "not_json": "A cup [[fault:not_json]]",
        "bad_base64": "A cup [[fault:bad_base64]]",
        "no_image": "A cup [[fault:no_image]]",
        "max_tokens": "A cup [[fault:max_tokens]]",
        "unknown_reason": "A cup [[fault:unknown_reason]]",
        "text_only": "A cup [[fault:text_only]]",
        "empty": "A cup [[fault:empty]]",
        "only_thought": "A cup [[fault:only_thought]]",
        "blocked_prompt": "Something forbidden",
        "image_safety": "An unsafe picture",
    }
    requests = {name: {"model": "gemini-3-pro-image", "prompt": prompt} for name, prompt in prompts.items()}
    requests["retired"] = {"model": "imagen-4.0-generate-001", "prompt": "A cup"}
    requests["unknown_size"] = {"model": "gemini-3-pro-image", "prompt": "A cup", "size": "3K"}
    met = {}
    for name, request in requests.items():
        try:
            met[name] = report(generate(base_url, request))
        except errors.APIError as error:
            met[name] = {"raised": type(error).__name__, "code": error.code, "status": error.status, "message": error.message}
        except Exception as error:  # The client has no error of its own for a broken transport or a broken body.
            met[name] = {"raised": type(error).__name__, "message": str(error)[:200]}
    return met


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="where the fake listens")
    parser.add_argument("mode", choices=["generate", "body", "errors"])
    given = parser.parse_args()
    if given.mode != "body" and not given.base_url:
        parser.error("this mode needs --base-url")
    if given.mode == "generate":
        said = report(generate(given.base_url, json.load(sys.stdin)))
    elif given.mode == "body":
        said = body(json.load(sys.stdin))
    else:
        said = failures(given.base_url)
    json.dump(said, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
