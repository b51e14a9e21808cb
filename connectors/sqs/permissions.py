"""What polling a queue needs of IAM, and putting messages back into it. Pure.

Source: Service Authorization Reference, Amazon SQS; the batch calls have the permissions of the single ones. ChangeMessageVisibility is
what AWS's own poller does not need: it neither prolongs nor gives back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from connectors.aws.permissions import needed
from connectors.sqs.queue import where
from poller.permissions import Grant, Needed, Somewhere

if TYPE_CHECKING:
    from connectors.sqs import SqsOptions

ACTIONS = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes")
RETURN = "sqs:SendMessage"
BY_NAME = "sqs:GetQueueUrl"
"""Where the queue is named without its URL."""

_ACCOUNT = re.compile(r"https?://[^/]+/(\d{12})/[\w.-]+")


def permissions(options: SqsOptions, place: Somewhere) -> Needed:
    return _of(options, place, "PollQueue", *ACTIONS)


def returning(options: SqsOptions, place: Somewhere) -> Needed:
    return _of(options, place, "ReturnToQueue", RETURN)


def _of(options: SqsOptions, place: Somewhere, purpose: str, *actions: str) -> Needed:
    named = where(options.queue)
    account = named.owner or (found[1] if named.url and (found := _ACCOUNT.fullmatch(named.url)) else None)
    arn = options.queue if options.queue.startswith("arn:") else place.arn("sqs", named.name, named.region or options.region, account)
    wanted = actions if named.url else (*actions, BY_NAME)
    return needed(f"queue {named.name}", options, Grant(purpose, wanted, (arn,)), at=named.url)
