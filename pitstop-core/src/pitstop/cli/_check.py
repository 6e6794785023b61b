"""``pitstop check``: test whether a live store keeps its promises, without touching its messages."""

from __future__ import annotations

from contextlib import closing

import attrs
import click

from pitstop._check._check import check as look_through
from pitstop._check._finding import Finding
from pitstop._pitstop import session_of
from pitstop.cli._output import print_json, print_table, say
from pitstop.cli._settings import Settings, common_options, masked
from pitstop.cli._streams import though_unread


__all__ = ["check"]


@click.command()
@click.argument("store", metavar="[URL]", required=False)
@common_options
@click.pass_obj
def check(settings: Settings, store: str | None) -> None:
    """Check a store that is in use: inspect it, and try its promises in a place of its own.

    This takes a second or two and touches no message. The promises are tried in a scratch beside the store (a file, a
    collection), which is removed again. The exit code is 1 if a check failed.

    URL is the store, as with --url.
    """
    settings.url = store or settings.url
    found: list[Finding] = []
    try:
        # closing() also acts when Ctrl-C comes in between: the end of the generator removes the scratch.
        with settings.open_existing() as pit, closing(look_through(session_of(pit).backend)) as findings:
            for finding in findings:
                # The author of the backend wrote its errors and its location, so they may hold a secret.
                each = attrs.evolve(finding, seen=masked(finding.seen, settings))
                found.append(each)
                if settings.json:
                    with though_unread():
                        print_json(attrs.asdict(each))
    finally:
        # Results are also printed if the store goes away, or makes no scratch.
        if found and not settings.json:
            with though_unread():
                print_table(("check", "status", "ms", "seen"), map(_row, found))
    failed = [each.name for each in found if each.status == "failed"]
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(found)} checks failed: {'; '.join(failed)}. If the backend is your own, find out more "
            f"with pitstop.testing.BackendConformance; else report this to its author."
        )
    if not settings.json:
        seconds = sum(each.milliseconds for each in found) / 1000
        warnings = sum(each.status == "warning" for each in found)
        with_warnings = f", {'one' if warnings == 1 else warnings} with a warning" if warnings else ""
        say(f"{len(found)} checks in {seconds:.1f} s{with_warnings}. No message was touched.")


def _row(finding: Finding) -> tuple[str, str, str, str]:
    seen = f"{finding.seen} (expected: {finding.expected})" if finding.status == "failed" else finding.seen
    return finding.name, finding.status, f"{finding.milliseconds:,.1f}", seen
