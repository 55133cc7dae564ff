"""Check the columns of a manifest while its rows are read."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.catalogue.own_columns import OPTION, absent
from pipeline.catalogue.table_reader import ColumnsError, ManifestError, check_columns


class ManifestColumns:
    """Incremental check of the columns; JSON lines may add columns at any row."""

    def __init__(self, caption: str, own: Sequence[str], wrong: Callable[[ManifestError], None] | None):
        self.caption, self.own, self.wrong = caption, own, wrong
        self.seen: dict[str, None] = {}
        self.names: dict[str, str] = {}
        self.refused: set[str] = set()
        self.complete = False

    def check(self, names: Sequence[str], where: str, complete: bool) -> None:
        """Check the columns of a file or of one row; see ``pipeline.catalogue.text_manifest.Check``."""
        if self.seen.keys() >= set(names):
            return
        self.seen |= dict.fromkeys(names)
        self.complete = complete
        try:
            usable = [name for name in self.seen if name not in self.refused]
            check_columns(usable, where, complete, not self.caption, self.own)
        except ColumnsError as error:
            self.refused |= error.unknown.keys()
            self.names |= {name: near for name, near in error.unknown.items() if near and near not in names}
            missing = set(error.missing) - set(self.names.values())
            if missing & {"track_id", "source"}:
                raise
            self._report(error)
            if "caption" in missing:
                self.caption = "any"

    def renamed(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with misspelt columns under their likely names."""
        return {self.names.get(name, name): value for name, value in row.items()} if self.names else row

    def finish(self, where: str) -> None:
        """Check declared columns after the last row."""
        lost = [] if self.complete else absent(self.own, self.seen)
        if lost:
            self._report(
                ManifestError(
                    "unreadable_manifest",
                    f"no row has {', '.join(map(repr, lost))}, which {OPTION} names",
                    where=where,
                )
            )

    def _report(self, error: ManifestError) -> None:
        if self.wrong is None:
            raise error
        self.wrong(error)
