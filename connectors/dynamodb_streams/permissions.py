"""What polling a table's stream needs of IAM. Pure.

Source: Amazon DynamoDB guide, "IAM policy to grant read access for a DynamoDB stream only". A table's next stream has another label, so
that `stream/*` is the least that follows the table; a stream that is named by its ARN is the only one that is allowed.
"""

from __future__ import annotations

from connectors.aws.permissions import needed
from connectors.dynamodb_streams.options import DynamoDBOptions, stream, where
from poller.permissions import Grant, Needed, Somewhere

ACTIONS = ("dynamodb:DescribeStream", "dynamodb:GetShardIterator", "dynamodb:GetRecords")
BY_TABLE = "dynamodb:ListStreams"


def permissions(options: DynamoDBOptions, place: Somewhere) -> Needed:
    named, one = where(options.table), stream(options)
    table = named.arn or place.arn("dynamodb", f"table/{named.name}", options.region)
    grant = Grant("PollTable", (*ACTIONS, BY_TABLE), (f"{table}/stream/*",)) if one is None else Grant("PollTable", ACTIONS, (one,))
    return needed(f"table {named.name}", options, grant)
