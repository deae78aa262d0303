"""Google's own signer of links, beside ours.

gcs_oracle.py key FILE      writes a service account with a key of its own
gcs_oracle.py check FILE    reads links as JSON from standard input, and signs the same by Google's client
"""

import json
import sys
from urllib.parse import parse_qs, quote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud.storage import _signing
from google.oauth2 import service_account

word, file = sys.argv[1:]

if word == "key":
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "links@platen.example.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    with open(file, "w") as out:
        json.dump(account, out)
    sys.exit()

credentials = service_account.Credentials.from_service_account_file(file)
differing = 0
links = json.load(sys.stdin)
for link in links:
    ours = link["url"]
    theirs = _signing.generate_signed_url_v4(
        credentials,
        # As Blob.generate_signed_url writes a name.
        resource="/" + link["bucket"] + "/" + quote(link["key"], safe=b"/~"),
        expiration=link["seconds"],
        method="GET",
        response_disposition=link["disposition"],
        response_type=link["type"],
        _request_timestamp=parse_qs(urlsplit(ours).query)["X-Goog-Date"][0],
    )
    # The signature covers path and query in canonical form; the query's order on the wire is anybody's.
    same = urlsplit(ours)[:3] == urlsplit(theirs)[:3] and parse_qs(urlsplit(ours).query) == parse_qs(
        urlsplit(theirs).query
    )
    if not same:
        differing += 1
        if differing < 6:
            print("key   ", repr(link["key"]))
            print("ours  ", ours)
            print("theirs", theirs)
print(f"{len(links)} links, {differing} differ")
sys.exit(differing != 0)
