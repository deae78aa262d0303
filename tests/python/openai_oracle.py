"""OpenAI's own client against the fakes: a fake is trusted only as far as the vendor's client has driven it.

    openai_oracle.py --base-url URL {generations,edits} generate < request.json
    openai_oracle.py                {generations,edits} body     < request.json
    openai_oracle.py --base-url URL {generations,edits} errors   < request.json

Besides what oracle.py says, a request has `"size"?`, `"quality"?`, `"output_format"?`. Needs `openai` (requirements.txt).
"""

import base64

import openai

import oracle

# What each way to fail is provoked by; a prompt may hold faults the fake knows.
PROMPTS = {
    "throttle": "A cup [[fault:throttle]]",
    "throttle_with_hint": "A cup [[fault:throttle:7]]",
    "no_quota": "A cup [[fault:no_quota]]",
    "hard_limit": "A cup [[fault:error:billing_hard_limit_reached]]",
    "invalid": "A cup [[fault:invalid]]",
    "unauthenticated": "A cup [[fault:unauthenticated]]",
    "denied": "A cup [[fault:denied]]",
    "internal": "A cup [[fault:internal]]",
    "bad_gateway": "A cup [[fault:status:502]]",
    "unavailable": "A cup [[fault:unavailable]]",
    "cut": "A cup [[fault:cut]]",
    "not_json": "A cup [[fault:not_json]]",
    "bad_base64": "A cup [[fault:bad_base64]]",
    "empty": "A cup [[fault:empty]]",
    "refused_prompt": "Something forbidden",
    "refused_policy": "A cup [[fault:error:content_policy_violation]]",
    "refused_at_length": "A cup [[fault:long_error:content_policy_violation]]",
    "refused_in_200": "A cup [[fault:error_200:content_policy_violation]]",
    "escaped_slashes": "A cup [[fault:shape:escaped_slashes]]",
}


def send(api, base_url, request):
    given = {name: request[name] for name in ("model", "prompt", "size", "quality", "output_format") if name in request}
    # Nothing of the environment, nothing twice.
    with openai.OpenAI(api_key="key", organization=None, base_url=f"{base_url}/v1", max_retries=0) as client:
        if api == "generations":
            return client.images.generate(n=1, **given)
        files = [
            (f"picture-{number}", data, media_type)
            for number, (_, data, media_type) in enumerate(oracle.pictures(request))
        ]
        return client.images.edit(n=1, image=files, **given)


def report(response):
    """What a reply says, by the client's own reading of it."""
    if isinstance(response, str):  # What the client makes of a body that is no JSON.
        return {"text": response[:200]}
    said = {
        "request_id": response._request_id,
        "created": response.created,
        "size": response.size,
        "quality": response.quality,
        "output_format": response.output_format,
        "background": response.background,
        "pictures": len(response.data or []),
        "usage": response.usage.model_dump(mode="json", exclude_none=True) if response.usage else None,
    }
    for picture in response.data or []:
        said |= oracle.told(base64.b64decode(picture.b64_json, validate=True))
    return said


def failures(api, base_url, request):
    """Each way to fail that a client can tell apart."""
    requests = {name: request | {"prompt": prompt} for name, prompt in PROMPTS.items()}
    requests["retired"] = request | {"model": "dall-e-3"}
    requests["unknown_size"] = request | {"size": "1000x1000"}
    return {name: attempt(lambda: report(send(api, base_url, each))) for name, each in requests.items()}


def attempt(ask):
    try:
        return ask()
    except openai.APIStatusError as error:
        return {
            "raised": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "type": error.type,
            "param": error.param,
            "message": error.message,
            "request_id": error.request_id,
            "retry_after": error.response.headers.get("retry-after"),
        }
    except Exception as error:  # A broken transport, a picture that is no base64.
        return {"raised": type(error).__name__, "message": str(error)[:200]}


if __name__ == "__main__":
    oracle.run(__doc__, ["generations", "edits"], send, report, failures, answer={})
