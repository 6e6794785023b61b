"""The conformance suite on the installed example of a third-party backend."""

from __future__ import annotations

import json

import pytest

from pitstop.testing import BackendConformance
from pitstop_conformance.races import _process_races
from pitstop_filesystem import FilesystemBackend


pytestmark = pytest.mark.usefixtures("fewer_sequences")


class TestFilesystem(BackendConformance):
    has_server = False

    @pytest.fixture
    def make_backend(self, tmp_path):
        self.path = tmp_path / "store"
        # No test here cuts the power, so no write here waits for the disk.
        # On a busy machine, one of four steady writers may wait long for the lock, which the system gives by chance.
        where = {"path": self.path, "sync": False, "busy_timeout": "1m"}
        return lambda **options: FilesystemBackend.from_options({**where, **options})

    @pytest.fixture(autouse=True)
    def fewer_records(self, monkeypatch):
        """Use fewer records. Each step of this backend lists the folder, so draining 20,000 records takes minutes and shows no more."""
        monkeypatch.setattr(_process_races, "_RECORDS", min(_process_races._RECORDS, 3000))

    def damage(self, backend, id):
        (file,) = [each for each in (self.path / "messages").iterdir() if f'"id": "{id}"' in each.read_text()]
        file.write_text(file.read_text()[:-1])

    def damage_kind(self, backend, id):
        (file,) = [each for each in (self.path / "messages").iterdir() if f'"id": "{id}"' in each.read_text()]
        header, line, message = file.read_text().partition("\n")
        file.write_text(json.dumps({**json.loads(header), "kind": 5}) + line + message)
