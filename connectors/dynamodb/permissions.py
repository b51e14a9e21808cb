"""What a ledger in DynamoDB needs of IAM. Pure. Source: Service Authorization Reference, Amazon DynamoDB.

In a transaction each item needs the permission of its own operation.
"""

from __future__ import annotations

from connectors.aws.permissions import needed
from connectors.dynamodb.url import COMPANION, where
from poller.permissions import Grant, Needed, Somewhere

BOTH = (
    "dynamodb:DescribeTable",
    "dynamodb:CreateTable",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:UpdateItem",
    "dynamodb:ConditionCheckItem",
)
TABLE = (*BOTH, "dynamodb:Scan")
BESIDE = (*BOTH, "dynamodb:DeleteItem", "dynamodb:Query")

ANY_SOURCE = "?" * 12
"""`{source}` is twelve digits of a hash that is known once the source was asked."""


def permissions(url: str, mapping: str, place: Somewhere) -> Needed:
    """`Where.name` made of it."""
    named = where(url)
    table = named.table.replace("{mapping}", mapping).replace("{source}", ANY_SOURCE)
    arn = place.arn("dynamodb", f"table/{table}", named.region)
    made = "without CreateTable, if the tables are there already"
    found = needed(f"table {table}", named, Grant("KeepLeases", TABLE, (arn,)), Grant("KeepStates", BESIDE, (f"{arn}{COMPANION}",)))
    return Needed(found.grants, found.role, (*found.remarks, *([f"the ledger can do {made}"] if found.grants else [])))
