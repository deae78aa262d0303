"""Google's own client against the fakes: a fake is trusted only as far as the vendor's client has driven it.

    google_oracle.py --base-url URL {vertex,gemini,interactions} generate < request.json
    google_oracle.py                {vertex,gemini,interactions} body     < request.json
    google_oracle.py --base-url URL {vertex,gemini,interactions} errors   < request.json

Besides what oracle.py says, a request has `"art_direction"?`, `"aspect_ratio"?`, `"size"?`, `"thinking"?`, and for Vertex
AI `"mime_type"?` and `"labels"?`. Needs `google-genai` (requirements.txt).
"""

import base64
import datetime
import time

from google import genai
from google.genai import errors, types
from google.genai._gaos.lib import compat_errors
from google.oauth2.credentials import Credentials

import oracle

APIS = ["vertex", "gemini", "interactions"]
# What each way to fail is provoked by; a prompt may hold faults the fake knows.
PROMPTS = {
    "throttle": "A cup [[fault:throttle]]",
    "throttle_with_hint": "A cup [[fault:throttle:7]]",
    "no_quota": "A cup [[fault:no_quota]]",
    "invalid": "A cup [[fault:invalid]]",
    "failed_precondition": "A cup [[fault:failed_precondition]]",
    "unauthenticated": "A cup [[fault:unauthenticated]]",
    "denied": "A cup [[fault:denied]]",
    "internal": "A cup [[fault:internal]]",
    "bad_gateway": "A cup [[fault:status:502]]",
    "unavailable": "A cup [[fault:unavailable]]",
    "deadline": "A cup [[fault:deadline]]",
    "cut": "A cup [[fault:cut]]",
    "not_json": "A cup [[fault:not_json]]",
    "bad_base64": "A cup [[fault:bad_base64]]",
    "text_only": "A cup [[fault:text_only]]",
    "empty": "A cup [[fault:empty]]",
    "refused_prompt": "Something forbidden",
    "refused_picture": "An unsafe picture",
}
OF_GENERATE_CONTENT = {
    "no_image": "A cup [[fault:no_image]]",
    "max_tokens": "A cup [[fault:max_tokens]]",
    "unknown_reason": "A cup [[fault:unknown_reason]]",
    "only_thought": "A cup [[fault:only_thought]]",
}
OF_INTERACTIONS = {
    word: f"A cup [[fault:interaction:{word}]]"
    for word in ["failed", "incomplete", "cancelled", "budget_exceeded", "requires_action", "a_status_from_the_future"]
} | {
    "poll_unavailable": "A cup [[fault:poll:unavailable]]",
    "gone": "A cup [[fault:gone]]",
}


def client(api, base_url):
    once = types.HttpRetryOptions(attempts=1)
    if api != "vertex":
        return genai.Client(
            vertexai=False,
            api_key="key",
            http_options=types.HttpOptions(base_url=base_url, api_version="v1beta", retry_options=once),
        )
    return genai.Client(
        vertexai=True,
        project="oracle",
        location="global",
        # Never refreshed: it does not expire while anyone watches.
        credentials=Credentials("token", expiry=datetime.datetime(2100, 1, 1)),
        http_options=types.HttpOptions(base_url=base_url, api_version="v1", retry_options=once),
    )


def send(api, base_url, request):
    ask = interact if api == "interactions" else generate_content
    with client(api, base_url) as google:
        return ask(google, request)


def generate_content(google, request):
    parts = [types.Part.from_text(text=request["prompt"])]
    for caption, data, media_type in oracle.pictures(request):
        if caption:
            parts.append(types.Part.from_text(text=caption))
        parts.append(types.Part.from_bytes(data=data, mime_type=media_type))
    thinking, art_direction = request.get("thinking"), request.get("art_direction")
    config = types.GenerateContentConfig(
        response_modalities=["IMAGE"],
        candidate_count=1,
        image_config=types.ImageConfig(
            aspect_ratio=request.get("aspect_ratio"),
            image_size=request.get("size"),
            output_mime_type=request.get("mime_type"),
        ),
        thinking_config=types.ThinkingConfig(thinking_level=thinking) if thinking else None,
        seed=request.get("seed"),
        labels=request.get("labels"),
        # Without a role, as `systemInstruction` has it on the wire.
        system_instruction=types.Content(parts=[types.Part.from_text(text=art_direction)]) if art_direction else None,
    )
    contents = [types.Content(role="user", parts=parts)]
    return google.models.generate_content(model=request["model"], contents=contents, config=config)


def create(google, request):
    content = [{"type": "text", "text": request["prompt"]}]
    for caption, data, media_type in oracle.pictures(request):
        if caption:
            content.append({"type": "text", "text": caption})
        content.append({"type": "image", "mime_type": media_type, "data": base64.b64encode(data).decode()})
    given = {
        "system_instruction": request.get("art_direction"),
        "response_format": {
            "type": "image",
            "aspect_ratio": request.get("aspect_ratio"),
            "image_size": request.get("size"),
            "delivery": "inline",
        },
        "generation_config": {"seed": request.get("seed"), "thinking_level": request.get("thinking")},
    }
    return google.interactions.create(
        model=request["model"],
        input=[{"type": "user_input", "content": content}],
        background=True,
        store=True,
        **without_none(given),
    )


def interact(google, request):
    """In the background, asked for until it ends; returns every state it was seen in."""
    states = [create(google, request)]
    # The listener leaves no handle.
    while states[-1].id and states[-1].status in ("queued", "in_progress"):
        time.sleep(0.1)
        states.append(google.interactions.get(states[-1].id))
    return states


def without_none(value):
    if not isinstance(value, dict):
        return value
    return {name: without_none(each) for name, each in value.items() if each is not None}


def report(response):
    """What a reply says, by the client's own reading of it."""
    return of_interaction(response) if isinstance(response, list) else of_content(response)


def of_content(response):
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
        said |= {"mime_type": pictures[-1].mime_type} | oracle.told(pictures[-1].data)
    return said


def of_interaction(states):
    last = states[-1]
    said = {
        "statuses": [state.status for state in states],
        "ids": sorted({state.id for state in states}),
        "model": last.model,
        "created": last.created,
        "text": last.output_text,
        "errors": [{"code": error.code, "message": error.message} for error in last.errors or []],
        "steps": [step.type for step in last.steps or []],
        "usage": last.usage.model_dump(mode="json", exclude_none=True) if last.usage else None,
    }
    if last.output_image:
        said |= {"mime_type": last.output_image.mime_type} | oracle.told(base64.b64decode(last.output_image.data, validate=True))
    return said


def failures(api, base_url, request):
    """Each way to fail that a client can tell apart."""
    prompts = PROMPTS | (OF_INTERACTIONS if api == "interactions" else OF_GENERATE_CONTENT)
    requests = {name: request | {"prompt": prompt} for name, prompt in prompts.items()}
    requests["retired"] = request | {"model": "imagen-4.0-generate-001"}
    requests["unknown_size"] = request | {"size": "3K"}
    met = {name: attempt(lambda: report(send(api, base_url, each))) for name, each in requests.items()}
    if api == "interactions":
        with client(api, base_url) as google:
            met |= handled(google, request)
    return met


def handled(google, request):
    """What can be done with an interaction besides waiting for it."""
    endless = create(google, request | {"prompt": "A cup [[fault:never]]"}).id
    ended = interact(google, request | {"prompt": "A cup"})[-1].id
    interactions = google.interactions
    return {
        "cancel": attempt(lambda: of_interaction([interactions.cancel(endless)])),
        "get_cancelled": attempt(lambda: of_interaction([interactions.get(endless)])),
        "cancel_ended": attempt(lambda: of_interaction([interactions.cancel(ended)])),
        "delete": attempt(lambda: {"answer": str(interactions.delete(ended))}),
        "get_deleted": attempt(lambda: of_interaction([interactions.get(ended)])),
        "delete_deleted": attempt(lambda: {"answer": str(interactions.delete(ended))}),
    }


def attempt(ask):
    try:
        return ask()
    except errors.APIError as error:
        return {
            "raised": type(error).__name__,
            "code": error.code,
            "status": error.status,
            "message": error.message,
        } | hints(error.response, error.details)
    except compat_errors.APIStatusError as error:  # What interactions raise.
        return {"raised": type(error).__name__, "code": error.status_code, "body": error.body} | hints(error.response, error.body)
    except Exception as error:  # The client has no error of its own for a broken transport or a broken body.
        return {"raised": type(error).__name__, "message": str(error)[:200]}


def hints(response, body):
    """How long a refusal asks to wait, in its header and in its body."""
    body = body[0] if isinstance(body, list) else body
    error = body.get("error", {}) if isinstance(body, dict) else {}
    delays = [each["retryDelay"] for each in error.get("details", []) if each["@type"].endswith("google.rpc.RetryInfo")]
    return {"retry_after": response.headers.get("retry-after"), "retry_delay": delays[0] if delays else None}


if __name__ == "__main__":
    # An interaction needs a status to be read; a reply of `generateContent` needs nothing.
    oracle.run(__doc__, APIS, send, report, failures, answer={"status": "in_progress"})
