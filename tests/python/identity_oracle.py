"""Clients of identity providers, beside ours.

identity_oracle.py sign-in ISSUER    signs in at an OpenID provider by Authlib, and prints what the ID token says
identity_oracle.py firebase URL PROJECT
                                     reads tokens as JSON ({name: token}) from standard input, verifies them by Google's
                                     own client with the keys at URL, and prints which are accepted ({name: true or error})
"""

import json
import os
import sys
from urllib.parse import parse_qs, urlsplit

import requests

REDIRECT = "https://studio.example/sign-in/callback"


def sign_in(issuer):
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    from authlib.common.security import generate_token
    from authlib.integrations.requests_client import OAuth2Session
    from authlib.oidc.core import CodeIDToken
    from authlib.oidc.discovery import OpenIDProviderMetadata, get_well_known_url
    from joserfc import jwk, jwt

    metadata = OpenIDProviderMetadata(requests.get(get_well_known_url(issuer, external=True), timeout=30).json())
    if issuer.startswith("https"):
        metadata.validate()
    client = OAuth2Session(
        "platen",
        "p&l a=t:e+n",
        scope="openid email profile",
        redirect_uri=REDIRECT,
        code_challenge_method="S256",
        token_endpoint_auth_method="client_secret_basic",
    )
    verifier, nonce = generate_token(48), generate_token(32)
    address, state = client.create_authorization_url(
        metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce, login_hint="ada@example.com"
    )
    answer = requests.get(address, allow_redirects=False, timeout=30)
    location = answer.headers["Location"]
    tokens = client.fetch_token(
        metadata["token_endpoint"], authorization_response=location, state=state, code_verifier=verifier
    )
    keys = jwk.KeySet.import_key_set(requests.get(metadata["jwks_uri"], timeout=30).json())
    token = jwt.decode(tokens["id_token"], keys, algorithms=metadata["id_token_signing_alg_values_supported"])
    claims = CodeIDToken(
        token.claims,
        token.header,
        options={
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": "platen"},
            "nonce": {"essential": True, "value": nonce},
        },
        params={"nonce": nonce, "client_id": "platen", "access_token": tokens["access_token"]},
    )
    claims.validate()

    # A code is good for one exchange, with its own verifier.
    def refused(verifier):
        fresh = requests.get(address, allow_redirects=False, timeout=30).headers["Location"]
        code = parse_qs(urlsplit(fresh).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": verifier}
        answer = requests.post(metadata["token_endpoint"], form, auth=("platen", "secret"), timeout=30)
        again = requests.post(metadata["token_endpoint"], form, auth=("platen", "secret"), timeout=30)
        return [answer.status_code, again.status_code, again.json().get("error")]

    return {
        "algorithm": token.header["alg"],
        "subject": claims["sub"],
        "email": claims["email"],
        "issuer_of_callback": parse_qs(urlsplit(location).query)["iss"][0],
        "once": refused(verifier),
        "other_verifier": refused(generate_token(48)),
    }


def firebase(url, project):
    from google.auth.transport.requests import Request
    from google.oauth2 import id_token

    request = Request()

    def verdict(token):
        try:
            id_token.verify_token(token, request, audience=project, certs_url=url)
        except Exception as error:  # Google's client lets errors of the libraries below it through.
            return f"{type(error).__name__}: {error}"
        return True

    return {name: verdict(token) for name, token in json.load(sys.stdin).items()}


word, *arguments = sys.argv[1:]
print(json.dumps({"sign-in": sign_in, "firebase": firebase}[word](*arguments), indent=2))
