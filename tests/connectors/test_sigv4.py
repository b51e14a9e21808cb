"""Signatures of POSTs, compared with AWS's own test suite and with botocore's."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from connectors.aws.sigv4 import Credentials, Signer
from poller.testing.strategies import laws

SUITE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
MOMENT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp()


def signature(headers: dict[str, str]) -> str:
    return headers["authorization"].rpartition("Signature=")[2]


def test_aws_own_test_suite() -> None:
    """awslabs/aws-c-auth, tests/aws-signing-test-suite/v4: post-vanilla, header-signed-request.txt."""
    signed = Signer("example.amazonaws.com", "/", "service", "us-east-1").headers(SUITE, {}, b"", MOMENT)
    assert signed == {
        "host": "example.amazonaws.com",
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, "
        "Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    }


@laws(60)
@given(
    st.binary(max_size=200),
    st.integers(0, 2**31),
    st.none() | st.sampled_from(["a/session+token==", "t"]),
    st.sampled_from("ab"),
    st.sampled_from(["/", "/p/q/", "/a%20b/"]),
)
def test_botocore_signs_the_same(body: bytes, moment: int, token: str | None, secret: str, path: str) -> None:
    signer = Signer("kinesis.eu-west-1.amazonaws.com", path, "kinesis", "eu-west-1")
    fixed = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "Kinesis_20131202.GetRecords"}
    who = Credentials("KEY", secret, token)
    for other, day in ((who._replace(secret="another"), 0.0), (who, 86400.0)):
        signer.headers(other, fixed, b"before", moment + day)
    ours = signer.headers(who, fixed, body, float(moment))
    assert ours == signer.headers(who, fixed, body, float(moment))
    request = AWSRequest("POST", f"https://kinesis.eu-west-1.amazonaws.com{path}", headers=fixed, data=body)
    theirs = SigV4Auth(BotoCredentials("KEY", secret, token), "kinesis", "eu-west-1")
    request.context["timestamp"] = ours["x-amz-date"]
    request.headers["X-Amz-Date"] = ours["x-amz-date"]
    if token is not None:
        request.headers["X-Amz-Security-Token"] = token
    text = theirs.string_to_sign(request, theirs.canonical_request(request))
    assert signature(ours) == theirs.signature(text, request)


@pytest.mark.parametrize("part", ["key", "secret", "token"])
def test_every_part_of_the_credentials_counts(part: str) -> None:
    signer, one = Signer("h", "/", "s", "r"), SUITE._replace(token="t")
    first = signer.headers(one, {}, b"", MOMENT)
    assert first == signer.headers(one, {}, b"", MOMENT)
    assert first["authorization"] != signer.headers(one._replace(**{part: "another"}), {}, b"", MOMENT)["authorization"]
    assert first["authorization"] != signer.headers(one, {}, b"x", MOMENT)["authorization"]
