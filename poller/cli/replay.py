"""`poller replay`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poller.cli.options import Chosen, config_option, json_option, load_config, selection_options
from poller.cli.text import json_line

if TYPE_CHECKING:
    from poller.cli.replaying import Ended
    from poller.config import Config
    from poller.failures.runs import Plan

START = "start"


class Replays(click.Group):
    """`poller replay` begins a replay; `poller replay WORD` does something to one: no failure's id is such a word."""

    @property
    def default(self) -> click.Command:
        """What runs when no other command is named."""
        return self.commands[START]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [START, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.default.format_help(click.Context(self.default, info_name=ctx.info_name, parent=ctx.parent), formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=Replays, short_help="Run kept failures again.")
def replay() -> None:
    """Run kept failures again."""


@replay.command(START, hidden=True)
@selection_options
@click.option(
    "--from", "origin", metavar="ADDRESS", help="First take what lies there into the journal: a dead-letter queue, bucket, topic or file."
)
@click.option("--copies", is_flag=True, help="Also copies of messages that are in a queue's dead-letter queue.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option("--concurrency", type=click.IntRange(min=1), help="So many at once. Default: 1 beside a running daemon, else the CPUs.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many records a second.")
@click.option("--name", help="What to call this replay. Default: the time.")
@click.option("--only-failing", is_flag=True, help="Halve each failure down to its poison records, and keep each of those by itself.")
@click.option("--to-function", "function", metavar="NAME", help="Run them with this function of the configuration.")
@click.option("--to", metavar="source|ADDRESS", help="Run nothing: put the records back into their source, or send to a destination.")
@click.option("--set", "changes", multiple=True, metavar="PATH=VALUE", help="Change each record first, e.g. body.customer.id=7.")
@click.option("--edit", is_flag=True, help="Change the records in $EDITOR first.")
@config_option
@json_option
def start(
    chosen: Chosen, origin: str | None, copies: bool, dry_run: bool, concurrency: int | None, name: str | None, edit: bool,
    config_path: Path, as_json: bool, **wanted: Any,
) -> None:  # fmt: skip
    """Run kept failures again, with their mapping's limits and its function of today: all, or those that are selected.

    A failure that succeeds is done; one that fails again is kept with its new error, and the exit code is 1. A running daemon does it
    beside its other work; without one it is done here. Ctrl-C pauses it in order: nothing is lost.
    """
    from dataclasses import replace

    from poller.cli.replaying import planned_of, replayed

    config = load_config(config_path)
    plan = planned_of(config, chosen, copies, concurrency, wanted)
    lost = False
    if origin is not None:
        plan, lost = _take(config, origin, chosen, plan, dry_run, as_json)
    if dry_run:
        _preview(config, plan, as_json)
        return
    if edit:
        from poller.cli.editing import edited

        plan = replace(plan, edits=asyncio.run(edited(config, plan)))
    _run(lambda told: replayed(config, name, chosen.ids, plan, told), as_json, lost)


@replay.command()
@click.argument("run")
@click.option("--again", is_flag=True, help="Run what has failed in it once more.")
@click.option("--concurrency", type=click.IntRange(min=1), help="So many at once. Default: as it was begun.")
@config_option
@json_option
def resume(run: str, again: bool, concurrency: int | None, config_path: Path, as_json: bool) -> None:
    """Go on with a replay that is paused, or was interrupted: no failure is run in it twice."""
    from poller.cli.replaying import resumed

    config = load_config(config_path)
    _run(lambda told: resumed(config, run, again, concurrency, told), as_json)


@replay.command()
@click.argument("run")
@config_option
@json_option
def pause(run: str, config_path: Path, as_json: bool) -> None:
    """Pause a replay: what runs is finished, and `resume` goes on."""
    from poller.failures.runs import paused

    _told(run, paused, config_path, as_json)


@replay.command()
@click.argument("run")
@config_option
@json_option
def abort(run: str, config_path: Path, as_json: bool) -> None:
    """End a replay for good: what it has not done is kept."""
    from poller.failures.runs import aborted

    _told(run, aborted, config_path, as_json)


@replay.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many, the newest first.")
@config_option
@json_option
def list_(limit: int, config_path: Path, as_json: bool) -> None:
    """List replays, the newest first. A store that an older poller has made is brought to this one's form, as by `poller failures`."""
    from poller.cli.runs import document, known, overview

    runs = asyncio.run(known(load_config(config_path), limit))
    if as_json:
        for run in runs:
            click.echo(json_line(document(run)))
    else:
        click.echo(overview(runs) if runs else "no replays")


@replay.command()
@click.argument("run")
@click.option("--trail", is_flag=True, help="Also who has done what to which failure, and when.")
@config_option
@json_option
def show(run: str, trail: bool, config_path: Path, as_json: bool) -> None:
    """Show a replay: what it was to do, and what it has done.

    A store that an older poller has made is brought to this one's form, as by `poller failures`.
    """
    from poller.cli.runs import document, page, step_document, steps_page, trail_of

    found, steps = asyncio.run(trail_of(load_config(config_path), run, trail))
    if as_json:
        for line in (document(found), *map(step_document, steps)):
            click.echo(json_line(line))
    else:
        click.echo(page(found) + (f"\n\n{steps_page(steps)}" if steps else ""))


def _take(config: Config, origin: str, chosen: Chosen, plan: Plan, dry_run: bool, as_json: bool) -> tuple[Plan, bool]:
    """The plan of what was taken, and whether records were lost. Exits where there is nothing to run: with 1 if records were lost."""
    from poller.cli.redriving import document, page, planned, taken

    found = asyncio.run(taken(config, origin, chosen, dry=dry_run))
    click.echo(json_line(document(found)) if as_json else page(found, dry_run))
    if dry_run or not found.rows:
        raise SystemExit(1 if found.gone else 0)
    return planned(plan, found), found.gone > 0


def _preview(config: Config, plan: Plan, as_json: bool) -> None:
    from dataclasses import asdict

    from poller.cli.replaying import preview_page, previewed

    shown, sample = asyncio.run(previewed(config, plan))
    click.echo(json_line(asdict(shown)) if as_json else preview_page(shown, sample))


def _run(whole: Any, as_json: bool, lost: bool = False) -> None:
    from poller.cli.meter import Meter
    from poller.cli.replaying import ended_page

    with Meter() as meter:

        def told(tally: dict[str, int]) -> None:
            failed = tally["failed_again"] + tally["split"]
            text = f"{tally['done_rows']:,} of {tally['total_rows']:,} failures" + (f", {failed:,} failed again" if failed else "")
            meter.bar(tally["done_rows"], tally["total_rows"], text)

        ended: Ended = asyncio.run(whole(told))
    click.echo(json_line(ended.document()) if as_json else ended_page(ended))
    click.get_current_context().exit(0 if ended.clean and not lost else 1)


def _told(run: str, change: Any, config_path: Path, as_json: bool) -> None:
    from poller.cli.runs import changed, document

    found = asyncio.run(changed(load_config(config_path), run, change))
    click.echo(json_line(document(found)) if as_json else f"replay {found.name} is {found.state}")
