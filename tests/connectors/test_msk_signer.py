"""The token for Amazon MSK, compared with signatures that AWS and others have published."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.aws.sigv4 import Credentials, presigned
from connectors.kafka.msk import TOKEN_SECONDS, msk_token

SUITE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
"""Of AWS's signing test suite."""


def at(moment: str) -> float:
    return datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def signature(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["X-Amz-Signature"]


@pytest.mark.parametrize(
    ("parameters", "credentials", "expected"),
    [
        # awslabs/aws-c-auth, tests/aws-signing-test-suite/v4: get-vanilla-query-order-key-case and get-vanilla-with-session-token,
        # query-signed-request.txt.
        ({"Param2": "value2", "Param1": "value1"}, SUITE, "86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5"),
        (
            {},
            SUITE._replace(token="6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"),
            "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c",
        ),
    ],
)
def test_aws_own_test_suite(parameters, credentials, expected):
    url = presigned("example.amazonaws.com", "service", "us-east-1", credentials, parameters, at("20150830T123600Z"), 3600)
    assert signature(url) == expected


def test_what_librdkafka_publishes_for_msk():
    """Its unit tests of AWS_MSK_IAM (rdkafka_aws.c, unittest_build_sasl_payload): the same request as ours, on a host of its own."""
    credentials = Credentials("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    url = presigned(
        "hostname", "kafka-cluster", "us-east-1", credentials, {"Action": "kafka-cluster:Connect"}, at("20100101T000000Z"), TOKEN_SECONDS
    )
    assert signature(url) == "d3eeeddfb2c2b76162d583d7499c2364eb9a92b248218e31866659b18997ef44"


@pytest.mark.parametrize(
    ("region", "session", "expected"),
    [
        # What aws-msk-iam-sasl-signer-python 1.0.2 signs at that moment with these credentials.
        ("us-west-2", "a/session+token==", "351b3eb712b9749eeb9115bab069ab09ef138fbc5dfc1078f1b157a28f705732"),
        ("eu-central-1", None, "e444ce8addc0289c985849f6825ba9ec4fe98f1a47828df1048fd2095a381177"),
    ],
)
def test_what_aws_own_signer_makes(region, session, expected):
    token = msk_token(region, SUITE._replace(token=session), at("20260131T080000Z"))
    assert "=" not in token and "+" not in token and "/" not in token
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    assert (url.scheme, url.netloc, url.path) == ("https", f"kafka.{region}.amazonaws.com", "/")
    assert dict(parse_qsl(url.query)) == {
        "Action": "kafka-cluster:Connect",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"AKIDEXAMPLE/20260131/{region}/kafka-cluster/aws4_request",
        "X-Amz-Date": "20260131T080000Z",
        "X-Amz-Expires": "900",
        "X-Amz-SignedHeaders": "host",
        **({"X-Amz-Security-Token": session} if session else {}),
        "X-Amz-Signature": expected,
        "User-Agent": "poller",
    }


@given(st.integers(0, 2**31), st.integers(1, 10**9), st.sampled_from(["key", "secret", "token"]))
def test_time_and_every_part_of_the_credentials_count(moment, later, part):
    one = SUITE._replace(token="t")
    first = signature(presigned("h", "s", "r", one, {}, moment, 900))
    assert first == signature(presigned("h", "s", "r", one, {}, moment, 900))
    assert first != signature(presigned("h", "s", "r", one, {}, moment + later, 900))
    assert first != signature(presigned("h", "s", "r", one._replace(**{part: "another"}), {}, moment, 900))


def test_credentials_do_not_show_themselves():
    shown = repr(SUITE._replace(token="the-session"))
    assert "AKIDEXAMPLE" in shown and SUITE.secret not in shown and "the-session" not in shown
