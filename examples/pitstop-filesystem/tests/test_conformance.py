"""The suite that every backend of Pitstop has to pass. This is all that it takes."""

from __future__ import annotations

import json

import pytest

from pitstop.testing import BackendConformance
from pitstop_filesystem import FilesystemBackend


class TestFilesystem(BackendConformance):
    has_server = False

    @pytest.fixture
    def make_backend(self, tmp_path):
        self.path = tmp_path / "store"
        # Nothing here pulls the plug, so nothing here waits for the disk.
        # On a busy machine, one of four steady writers may wait long for the lock, which the system gives by chance.
        where = {"path": self.path, "sync": False, "busy_timeout": "1m"}
        return lambda **options: FilesystemBackend.from_options({**where, **options})

    def damage(self, backend, id):
        (file,) = [each for each in (self.path / "messages").iterdir() if f'"id": "{id}"' in each.read_text()]
        file.write_text(file.read_text()[:-1])

    def damage_kind(self, backend, id):
        (file,) = [each for each in (self.path / "messages").iterdir() if f'"id": "{id}"' in each.read_text()]
        header, line, message = file.read_text().partition("\n")
        file.write_text(json.dumps({**json.loads(header), "kind": 5}) + line + message)
