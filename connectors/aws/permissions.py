"""What options that name something of AWS's need of IAM. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from connectors.aws.naming import Asked
from poller.permissions import Grant, Needed

_AWS = re.compile(r"(?:^|\.)amazonaws\.com(?:\.cn)?$|(?:^|\.)api\.aws$")


def needed(what: str, asked: Asked, *grants: Grant, at: str | None = None) -> Needed:
    """`grants`, unless another service than AWS's is asked: `asked.endpoint`, or the one of the URL `at`. `what`: for messages."""
    url = asked.endpoint or at
    if url is not None and not _AWS.search(urlsplit(url).hostname or ""):
        return Needed(remarks=(f"{what} is at {url}, which is not AWS's: IAM does not decide there",))
    return Needed(grants, asked.role_arn or "")
