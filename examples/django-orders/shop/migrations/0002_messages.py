"""The tables of the messages.

``messages.sql`` is the output of ``pitstop migrate --print --url postgresql:///shop``.
"""

from pathlib import Path

from django.db import migrations


STATEMENTS = Path(__file__).with_name("messages.sql").read_text(encoding="utf-8")


class Migration(migrations.Migration):
    """Make the tables, unless they are there."""

    dependencies = (("shop", "0001_initial"),)
    operations = (migrations.RunSQL(STATEMENTS, "DROP TABLE IF EXISTS pitstop_messages, pitstop_messages_meta"),)
