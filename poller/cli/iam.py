"""`poller iam`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import clean, json_line

OURS = "the credentials that poller runs with"


@click.command(short_help="Print the IAM policy that a mapping needs.")
@click.argument("mapping")
@click.option("--region", help="Where what has no region in the configuration is. Default: AWS_REGION, AWS_DEFAULT_REGION, else *.")
@click.option("--account", help="Whose what has no account in the configuration is. Default: *.")
@click.option("--from", "origin", metavar="ADDRESS", help="Also what `poller replay --from ADDRESS` needs to take what lies there.")
@click.option("--to", "back", type=click.Choice(["source"]), help="Also what `poller replay --to source` needs to put records back.")
@config_option
@json_option
def iam(
    mapping: str, region: str | None, account: str | None, origin: str | None, back: str | None, config_path: Path, as_json: bool
) -> None:
    """Print the least that AWS must allow for MAPPING: its source, its destinations, and the ledger if that is in DynamoDB.

    Policies come on stdout, what IAM does not decide on stderr. Where roles are assumed each has a policy of its own. AWS is not asked.
    """
    from poller.cli.permitting import permitted
    from poller.permissions import Somewhere
    from poller.registry import Registry

    known = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "*"
    found = permitted(load_config(config_path), Registry(), mapping, Somewhere(known, account or "*"), origin, back is not None)
    if as_json:
        for each in found.principals:
            click.echo(json_line({"role": each.role or None, "policy": each.policy}))
        click.echo(json_line({"remarks": found.remarks}))
        return
    for each in found.principals:
        click.echo(f"for {each.role or OURS}:", err=True)
        click.echo(json.dumps(each.policy, indent=2))
    for remark in found.remarks:
        click.echo(clean(remark), err=True)
    if not found.principals:
        click.echo("nothing here needs a policy of IAM", err=True)
