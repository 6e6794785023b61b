"""``pitstop webhook``: post the dead messages of the store, for example those that died while the webhook was away."""

from __future__ import annotations

import click

from pitstop import PitstopError
from pitstop.cli.commands import Settings, common_options, pass_settings, print_json
from pitstop_webhook import URL_VARIABLE
from pitstop_webhook._poster import post


@click.command()
@click.option(
    "--to", metavar="URL", envvar=URL_VARIABLE, help=f"The webhook. Default: {URL_VARIABLE} of the environment."
)
@click.option("--dry-run", is_flag=True, help="Print the documents, and post nothing.")
@common_options
@pass_settings
def webhook(settings: Settings, to: str | None, dry_run: bool) -> None:
    """Post each dead message of the store to a webhook: its id, its kind and its error."""
    if not to and not dry_run:
        raise click.UsageError(f"There is no webhook. Give --to URL, or set {URL_VARIABLE}.")
    posted, last = 0, None
    with settings.open_existing() as pit:
        while page := pit.entries(state="dead", after=last):
            for last in page:
                document = {"event": "dead", "id": last.id, "kind": last.kind, "error": last.last_error}
                if dry_run:
                    print_json(document)
                    continue
                assert to, "checked above"
                try:
                    post(to, document)
                except (OSError, ValueError) as error:
                    raise PitstopError(
                        f"The webhook did not take {last.id!r}, after {posted} others: {error}. Run the command again later."
                    ) from error
                posted += 1
    if not dry_run:
        print_json({"posted": posted})
