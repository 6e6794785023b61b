"""The shared suite on the example of a backend by somebody else, as it is installed."""

from __future__ import annotations

import pytest

from pitstop.testing import BackendConformance
from pitstop_filesystem import FilesystemBackend


pytestmark = pytest.mark.usefixtures("fewer_sequences")


class TestFilesystem(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path):
        self.path = tmp_path / "store"
        # Nothing here pulls the plug, so nothing here waits for the disk.
        return lambda **options: FilesystemBackend.from_options({"path": self.path, "sync": False, **options})

    def damage(self, backend, id):
        (file,) = [each for each in (self.path / "messages").iterdir() if f'"id": "{id}"' in each.read_text()]
        file.write_text(file.read_text()[:-1])
