"""Checks unpacked bundles with securesystemslib and in-toto-attestation.

Standard input: {name: {"dir": ..., "keys": [PEM, ...], "control_keys": [PEM, ...]}}. Standard output:
{name: what is wrong, or null}. The keys are those that the verifier trusts, of the log and of the
control log; those in the bundle are not looked at.
"""

import hashlib
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey


def trusted(pem):
    key = load_pem_public_key(pem.encode())
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SSlibKey.from_crypto(key, keyid=hashlib.sha256(spki).hexdigest())


def statement(path, keys):
    envelope = Envelope.from_dict(json.loads(path.read_bytes()))
    envelope.verify(keys, 1)
    parsed = json_format.Parse(envelope.payload, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    return parsed


def receipts(folder, keys):
    found = sorted(folder.glob("receipts/*.dsse.json"))
    if not found:
        raise ValueError("no receipt")
    for path in found:
        statement(path, keys)


def check(folder, keys, control_keys):
    receipts(folder, keys)
    if (folder / "control").exists():
        receipts(folder / "control", control_keys)
    manifest = statement(folder / "manifest.dsse.json", keys)
    named = {subject.name: subject.digest["sha256"] for subject in manifest.subject}
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    del found["manifest.dsse.json"]
    if named != found:
        raise ValueError("the files are not the subjects of the manifest")


def outcome(case):
    try:
        keys = ([trusted(pem) for pem in case[name]] for name in ("keys", "control_keys"))
        check(Path(case["dir"]), *keys)
        return None
    except Exception as error:  # Whatever the libraries raise is a refusal.
        return f"{type(error).__name__}: {error}"


json.dump({name: outcome(case) for name, case in json.load(sys.stdin).items()}, sys.stdout)
