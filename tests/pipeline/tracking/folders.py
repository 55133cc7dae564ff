"""Output folders for trackers, and what a look at a tracker says."""

from pathlib import Path

from pipeline.storage.store import Store, open_store
from pipeline.tracking.faults import TrackerError
from pipeline.tracking.spec import TrackingSpec
from pipeline.tracking.tracker import Tracker
from tests.mlflow_database import create_database
from tests.pipeline.tracking.test_tracker import rows, track


def folder_with_covers(folder: Path, database: bool = True) -> Store:
    """An output folder with four covers and, unless told otherwise, a database without runs."""
    store = open_store(str(folder))
    for row in rows():
        store.write(row["audio_path"], b"fLaC")
    store.write("job.json", b'{"job": {"manifest": "tracks.csv"}}')
    if database:
        create_database(folder / "mlflow.db")
    return store


def looked(store: Store, uri: str | None = None, experiment: str | None = None) -> str | TrackerError:
    """What looking says, which leaves every file as it is."""
    before = contents(Path(store.root).parent)
    try:
        found: str | TrackerError = Tracker(
            TrackingSpec(uri=uri, experiment=experiment), "songs", store, store.root
        ).look()
    except TrackerError as error:
        found = error
    assert contents(Path(store.root).parent) == before
    return found


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def refusal(store: Store, uri: str | None = None) -> tuple[TrackerError, str]:
    """What looking and the end of a job say of a tracker that does not take runs."""
    fault = looked(store, uri)
    assert isinstance(fault, TrackerError)
    links, warnings = track(store, TrackingSpec(uri=uri), rows())
    assert links == {}
    assert fault.reason in warnings[-1]
    assert fault.remedy in warnings[-1]
    assert ("once it does, the same command" in warnings[-1]) == fault.heals
    assert ("until that is done, the same command cannot" in warnings[-1]) == (not fault.heals)
    return fault, warnings[-1]
