"""The shared suite on the example of a backend by somebody else, as it is installed."""

from __future__ import annotations

import pytest

from pitstop.testing import BackendConformance
from pitstop_conformance.races import _process_races
from pitstop_filesystem import FilesystemBackend


pytestmark = pytest.mark.usefixtures("fewer_sequences")


class TestFilesystem(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path):
        self.path = tmp_path / "store"
        # Nothing here pulls the plug, so nothing here waits for the disk.
        return lambda **options: FilesystemBackend.from_options({"path": self.path, "sync": False, **options})

    @pytest.fixture(autouse=True)
    def fewer_records(self, monkeypatch):
        """Each of its steps lists the folder: to drain 20,000 records in small claims takes minutes, and promises nothing."""
        monkeypatch.setattr(_process_races, "_RECORDS", min(_process_races._RECORDS, 3000))

    def damage(self, backend, id):
        (file,) = [each for each in (self.path / "messages").iterdir() if f'"id": "{id}"' in each.read_text()]
        file.write_text(file.read_text()[:-1])
