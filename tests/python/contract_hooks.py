"""What a schema cannot say, for `contract.py`: what a picture is, which ids exist, and which fields go together.

Schemathesis loads it (`SCHEMATHESIS_HOOKS`). Requests that ought to be accepted get real pictures and real ids; a refusal that
the contract announces in words only is no failure, and the reason stands beside it here.
"""

import atexit
import base64
import json
import os
import struct
import urllib.request
import zlib
from pathlib import Path

import schemathesis

made = 0


@atexit.register
def tell():
    Path(os.environ["CONTRACT_COUNTER"]).write_text(str(made))


def png():
    """A picture of 8 by 8 pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes([x * 30 for x in range(8) for _ in range(3)]) for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PNG = png()
MODELS = None


def models():
    """The models on offer; asked for once."""
    global MODELS
    if MODELS is None:
        with urllib.request.urlopen(f"{os.environ['CONTRACT_URL']}/v1/models") as answer:
            MODELS = [model["id"] for model in json.load(answer)["data"] if model["lifecycle"]["offered"]]
    return MODELS


@schemathesis.hook
def map_case(context, case):
    """Gives a request that ought to be accepted a picture, a model and an input that exist."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    operation = case.operation.definition.raw.get("operationId")
    if operation == "create_upload":
        case.body = PNG
    if operation == "create_job" and isinstance(case.body, dict):
        case.body["model"] = models()[len(case.body.get("prompt") or "") % len(models())]
        for picture in case.body.get("inputs") or []:
            picture.pop("upload", None)
            picture.update(data=base64.b64encode(PNG).decode(), media_type="image/png")
    return case


# Refusals of requests that fit their schemas, because no schema can say why: the operation, where its problems lie, and the reason.
IN_WORDS_ONLY = [
    ("create_job", "/run_at", "a time is at most seven days ahead of now, which moves"),
    ("create_job", "/encoding", "what may be said of an encoding depends on the format beside it"),
    ("create_job", "/inputs", "how many pictures a job may have, and all in all, depends on its model"),
    ("create_job", "/outputs", "how many pictures a job may ask for depends on its model"),
    ("create_job", "/size", "the sizes there are depend on the model"),
    ("create_job", "/aspect_ratio", "the ratios there are depend on the model"),
    ("create_job", "/seed", "whether a seed may be said depends on the model"),
    ("pause", "/everything", "either everything is named or a part of it, never both"),
    ("pause", "/model", "a model is one of the catalogue, which is the owner's"),
    ("adjust_credits", "/credits", "not 0, and no more is taken than the tenant has"),
]


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Drops a refusal that stands in IN_WORDS_ONLY, and that of a key which another request of the run was given: a schema cannot
    say that keys are new. Nothing else is dropped."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 422:
        return True
    operation = case.operation.definition.raw.get("operationId")
    problem = json.loads(response.content)
    if problem["code"] == "idempotency_key_reused":
        return False
    errors = problem.get("errors") or [{"pointer": "-"}]
    return not all(
        any(operation == of and error["pointer"].startswith(place) for of, place, _ in IN_WORDS_ONLY)
        for error in errors
    )


@schemathesis.hook
def after_call(context, case, response):
    global made
    made += 1
