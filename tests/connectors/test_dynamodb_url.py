"""URLs of a ledger in DynamoDB: what they mean, and what is wrong with them before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.dynamodb import kind
from connectors.dynamodb.url import Where, where
from poller.errors import ConfigError, StoreError


def test_what_a_url_means() -> None:
    url = "dynamodb://app-{mapping}?region=eu-west-1&endpoint=http://127.0.0.1:8000&profile=p&role_arn=arn:aws:iam::123456789012:role/r"
    found = where(url)
    assert found == Where("app-{mapping}", "eu-west-1", "http://127.0.0.1:8000", "p", "arn:aws:iam::123456789012:role/r")
    assert found.name("orders", "arn:x") == "app-orders"
    assert where("dynamodb://Orders.App") == Where("Orders.App")


def test_sources_have_tables_of_their_own_if_the_name_says_so() -> None:
    pattern = where("dynamodb://app-{mapping}-{source}")
    names = [pattern.name("orders", source) for source in ("arn:a", "arn:b")]
    assert len(set(names)) == 2 and all(name.startswith("app-orders-") for name in names)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("dynamodb://", "names no table"),
        ("dynamodb:orders", "names no table"),
        ("dynamodb://or ders", "cannot be the name"),
        ("dynamodb://{shard}", "cannot be the name"),
        ("dynamodb://orders/app", "more than a table's name"),
        ("dynamodb://orders?regoin=x", "'regoin' is no parameter"),
        ("dynamodb://orders?region=", "region needs one value"),
        ("dynamodb://orders?region=a&region=b", "region needs one value"),
        ("dynamodb://orders?endpoint=127.0.0.1:8000", "write a URL"),
        ("dynamodb://orders?role_arn=r", "write the role's ARN"),
    ],
)
def test_what_is_wrong_is_told(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        kind.check(url, Path())


def test_a_mapping_whose_id_makes_no_name_is_refused() -> None:
    with pytest.raises(StoreError, match="cannot be the name"):
        where("dynamodb://app-{mapping}").name("x" * 250, "")
