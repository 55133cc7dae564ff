"""No tracker that the user of this machine has set."""

import pytest


@pytest.fixture(autouse=True)
def _no_tracker_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
