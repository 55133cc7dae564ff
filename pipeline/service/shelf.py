"""What a service keeps: covers and their rows, as any output folder does, and the orders they are of."""

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from acestep.errors import RestyleError
from pipeline.receipts import of_track
from pipeline.results import current_rows, finished_items
from pipeline.service.orders import Order
from pipeline.storage import Store

log = logging.getLogger(__name__)
ORDERS, OPEN = "orders", "orders/open"


class Shelf:
    """Finished covers and orders, in a store.

    Rows of earlier runs lie in Parquet; those of this one in the receipts that workers leave. Both outlive it.
    """

    def __init__(self, store: Store):
        self.store = store
        self.adopted = finished_items(store, retry_failed=True)

    def row(self, track_id: str, item_id: str) -> dict[str, Any] | None:
        """The row of an item that is done, else None."""
        row = of_track(self.store, track_id).get(item_id)
        if row is None and item_id in self.adopted:
            found = current_rows(self.store, {item_id}).to_pylist()
            row = found[0] if found else None
        return row if row is not None and self.store.exists(row["audio_path"]) else None

    def audio(self, row: Mapping[str, Any]) -> bytes:
        """A cover's file."""
        return self.store.read(row["audio_path"])

    def opened(self, order: Order) -> None:
        """Remember an order that is not finished, so that a restart goes on with it."""
        self.store.write(f"{OPEN}/{order.id}.json", _written(order))

    def closed(self, order: Order, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember how an order ended, by the row of each item."""
        self.store.write(f"{ORDERS}/{order.id}.json", _written(order, rows))
        self.dropped(order)

    def dropped(self, order: Order) -> None:
        """An order is not open any more; one that never was is fine."""
        if self.store.exists(f"{OPEN}/{order.id}.json"):
            self.store.delete(f"{OPEN}/{order.id}.json")

    def order(self, order_id: str) -> tuple[Order, dict[str, dict[str, Any]]] | None:
        """A finished order and its rows, else None."""
        try:
            return _read(self.store.read(f"{ORDERS}/{order_id}.json"))
        except (FileNotFoundError, RestyleError):
            return None

    def left_open(self) -> Iterator[Order]:
        """Orders that an earlier run did not finish, the oldest first."""
        named = [(name, self.store.read(name)) for name in self.store.files(OPEN, ".json")]
        for name, content in sorted(named, key=lambda pair: json.loads(pair[1])["written_at"]):
            try:
                yield _read(content)[0]
            except (KeyError, TypeError) as error:
                log.warning("%s is no order of this version (%s)", name, error)


def _written(order: Order, rows: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    content = {
        "id": order.id,
        "owner": order.owner,
        "track": order.track,
        "covers": order.covers,
        "notes": order.notes,
        "rows": rows or {},
        "written_at": datetime.now(UTC).isoformat(),
    }
    return json.dumps(content, default=str).encode()


def _read(content: bytes) -> tuple[Order, dict[str, dict[str, Any]]]:
    values = json.loads(content)
    order = Order(
        values["id"], values["track"], tuple(values["covers"]), values["owner"], tuple(values.get("notes", ()))
    )
    return order, values["rows"]
