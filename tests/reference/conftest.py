import zipfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).with_name("cases.zip")


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Return the folder of the cases, unpacked."""
    folder = tmp_path_factory.mktemp("cases")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder
