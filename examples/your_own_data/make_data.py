"""Writes the small shop of this example: tools bought in the order in which jobs need them.

python examples/your_own_data/make_data.py
"""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq

HERE = Path(__file__).parent
JOBS = {
    "shelf": ["spirit level", "cordless drill", "wall plugs", "wood screws", "oak board"],
    "painting": ["masking tape", "dust sheet", "primer", "paint roller", "white wall paint"],
    "garden": ["spade", "potting soil", "lavender", "watering can", "secateurs"],
    "bicycle": ["tyre levers", "inner tube", "chain oil", "hex keys", "floor pump"],
}
MATERIALS = ["steel", "wood", "plastic", "cotton"]
VARIANTS = ["small", "large", "pro"]
CUSTOMERS = 150
START = datetime(2025, 1, 6, 9, tzinfo=UTC)


def main() -> None:
    """Write `items.csv` and `events.csv`, and the same as Parquet below `parquet/`."""
    chance = random.Random(7)
    write_items(chance)
    write_events(chance)
    for name in ("items", "events"):
        folder = HERE / "parquet" / name
        folder.mkdir(parents=True, exist_ok=True)
        table = pacsv.read_csv(HERE / f"{name}.csv")
        half = table.num_rows // 2
        pq.write_table(table.slice(0, half), folder / "part-0.parquet")
        pq.write_table(table.slice(half), folder / "part-1.parquet")


def write_items(chance: random.Random) -> None:
    """Write one row a product."""
    with (HERE / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["sku", "name", "job", "material", "price"])
        for job, products in JOBS.items():
            for product in products:
                for variant in VARIANTS:
                    price = round(chance.uniform(2, 90), 2)
                    name = f"{product}, {variant}"
                    rows.writerow(
                        [sku(product, variant), name, job, chance.choice(MATERIALS), price]
                    )


def write_events(chance: random.Random) -> None:
    """Write purchases: most customers do one or two jobs, in the order of the job."""
    with (HERE / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["customer", "sku", "when", "what"])
        for customer in range(CUSTOMERS):
            when = START + timedelta(hours=chance.randrange(24 * 90))
            for job in chance.sample(list(JOBS), k=2):
                for product in JOBS[job]:
                    if chance.random() < 0.9:
                        when += timedelta(minutes=chance.randrange(5, 3000))
                        item = sku(product, chance.choice(VARIANTS))
                        rows.writerow([f"customer-{customer}", item, when.isoformat(), "purchase"])
        rows.writerow(["customer-0", "discontinued-7", START.isoformat(), "purchase"])
        rows.writerow(["customer-1", sku("spade", "pro"), "2199-01-01T00:00:00+00:00", "purchase"])


def sku(product: str, variant: str) -> str:
    """Return the identifier of a product."""
    return f"{product.replace(' ', '-')}-{variant}"


if __name__ == "__main__":
    main()
