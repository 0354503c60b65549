#!/usr/bin/env bash
# google-auth 2.63.0: id_token.verify_token ignores `clock_skew_in_seconds` if the certificates are a JWK Set.
# Google publishes its keys in two forms, and the function takes both: certificates by key id, and a JWK Set. It passes
# a token for a JWK Set to PyJWT 2.15.1 without that option. audience=None, for which the documentation says that
# the audience is not verified, then refuses each token that has an audience. The errors are PyJWT's, and neither a
# GoogleAuthError nor a ValueError. With certificates by key id, they are both.
# Seen: with a clock skew of 10 s, a token that expired 5 s ago is accepted by one form, and refused by the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-auth==2.63.0 pyjwt==2.15.1 cryptography==50.0.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
import time
from types import SimpleNamespace

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import id_token

key = rsa.generate_private_key(65537, 2048)
public = key.public_key()
jwk = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True) | {"kid": "key", "alg": "RS256", "use": "sig"}
forms = {
    "by key id": {"key": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()},
    "JWK Set": {"keys": [jwk]},
}


def verify(certificates, audience, expires_in):
    now = int(time.time())
    claims = {"aud": "shop", "iat": now - 60, "exp": now + expires_in}
    token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "key"})
    response = SimpleNamespace(status=200, data=json.dumps(certificates).encode())
    try:
        id_token.verify_token(token, lambda *_, **__: response, audience, clock_skew_in_seconds=10)
    except Exception as exc:
        known = isinstance(exc, GoogleAuthError | ValueError)
        return f"{type(exc).__module__}.{type(exc).__name__}, GoogleAuthError or ValueError: {known}"
    return "accepted"


seen = {}
for name, certificates in forms.items():
    for case, audience, expires_in in (
        ("right", "shop", 600),
        ("expired 5 s ago", "shop", -5),
        ("audience=None", None, 600),
        ("another audience", "till", 600),
    ):
        seen[name, case] = verify(certificates, audience, expires_in)
        print(f"{name}, {case}: {seen[name, case]}")
others = "GoogleAuthError or ValueError"
assert list(seen.values()) == [
    *["accepted"] * 3,
    f"google.auth.exceptions.InvalidValue, {others}: True",
    "accepted",
    f"jwt.exceptions.ExpiredSignatureError, {others}: False",
    *[f"jwt.exceptions.InvalidAudienceError, {others}: False"] * 2,
], "the behaviour has changed"
PYTHON
