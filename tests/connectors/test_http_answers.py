"""What a receiver's answer means, and how a request is signed."""

from __future__ import annotations

from email.utils import formatdate

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.http import HttpOptions, kind
from connectors.http.answers import LONGEST_WAIT, refusal, shown, signed, waiting
from poller.errors import ConfigError
from poller.testing.strategies import laws

NOW = 1573691886.0


@pytest.mark.parametrize(
    ("status", "arrived", "permanent"),
    [
        *((status, True, False) for status in (200, 201, 202, 204, 299)),
        *((status, False, False) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, False, True) for status in (100, 301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 415, 422)),
    ],
)
def test_statuses(status: int, arrived: bool, permanent: bool) -> None:
    found = refusal("https://h", status, "7", "https://elsewhere/secret", NOW)
    assert (found is None) == arrived
    if found is not None:
        assert found.permanent == permanent
        assert found.retry_after == (None if permanent else 7.0)
        assert str(status) in str(found)
        assert "secret" not in str(found)


def test_retry_after_may_be_a_date() -> None:
    assert waiting(formatdate(NOW + 90, usegmt=True), NOW) == 90
    assert waiting(formatdate(NOW - 90, usegmt=True), NOW) == 0


@laws(200)
@given(st.one_of(st.none(), st.text(max_size=40), st.integers().map(str), st.floats().map(str)))
def test_whatever_retry_after_says_the_wait_is_bounded(text: str | None) -> None:
    found = waiting(text, NOW)
    assert found is None or 0 <= found <= LONGEST_WAIT


@pytest.mark.parametrize(
    ("secret", "signature"),
    [
        # The example of the specification's own libraries.
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        # As `openssl dgst -sha256 -hmac "plain text"` has it.
        ("plain text", "v1,jqwBeuO37ldYigaSHqcC7YjqBJtOOulPztOWrj1DjXA="),
    ],
)
def test_signatures_are_those_of_standard_webhooks(secret: str, signature: str) -> None:
    headers = signed(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": signature,
    }


def test_what_is_shown_of_an_address_is_no_secret() -> None:
    assert shown("https://me:word@hooks.example.com:8443/services/T0/B0/XYZ?token=1") == "https://hooks.example.com:8443"
    assert shown("https://[::1/secret") == shown("/secret") == ""


@pytest.mark.parametrize(
    ("to", "options", "text"),
    [
        ("https://", {}, "the address is no URL of a host"),
        ("https://a b/", {}, "the address is no URL of a host"),
        ("https://host:port/", {}, "the address is no URL of a host"),
        ("https://[::1/", {}, "the address is no URL of a host"),
        ("https://h/#part", {}, "the address has a fragment"),
        ("https://h", {"headers": {"a b": "c"}}, "headers: 'a b' is no name of a header"),
        ("https://h", {"headers": {"Content-Length": "1"}}, "headers: 'Content-Length' is set by us"),
        ("https://h", {"headers": {"x": "a\r\nb: c"}}, "headers.x: its value has characters that no header may have"),
        ("https://h", {"secret": ""}, "secret is empty"),
        ("https://h", {"timeout": "0s"}, "timeout = '0s': must be 1ms to 15m"),
        ("https://h", {"timeout": "soon"}, "timeout: 'soon' is no duration"),
        ("https://h", {"maximum_bytes": "1B"}, "maximum_bytes = '1B': must be 4KiB or more"),
        ("http://h", {"tls": {}}, "tls is for https addresses only"),
        ("https://h", {"tls": {"key": "k.pem"}}, "tls.key belongs to a certificate of ours"),
    ],
)
def test_what_is_refused_in_a_configuration(to: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        kind.traits(to, msgspec.convert(options, HttpOptions))
    assert "\r" not in str(caught.value)


def test_traits() -> None:
    assert kind.traits("https://me:word@h/x?y", HttpOptions(headers={"Authorization": "Bearer x"})).maximum_bytes is None
    assert kind.traits("http://h:8080", HttpOptions(maximum_bytes="1MiB")).maximum_bytes == 1024 * 1024
