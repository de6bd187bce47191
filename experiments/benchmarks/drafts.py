"""Which schedule of scales and steps gives the best picture for its cost.

The loss is that of the picture as saved with 8 bits, with all style layers, in float32; the cost is
in steps at full size, by pixels. Every schedule goes on from the coarse steps of its row, and its
loss is noted at several steps of the last scale.

    python experiments/benchmarks/drafts.py 256 384                 # 20 minutes on one core
    python experiments/benchmarks/drafts.py 256 --pair photo.jpg style.jpg
    python experiments/benchmarks/drafts.py --read found.jsonl      # only the table of these

Lines of JSON go to stdout as they are measured, then the table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import still

import workbench
from workbench.forecast import scales
from workbench.settings import Settings

# Steps at the scales before the last, by the size of the last.
COARSE = {
    256: [(20,), (40,), (60,), (20, 20)],
    384: [(20, 20), (40, 40), (60, 60), (40,)],
}
LAST = (5, 10, 20, 40, 60)  # steps of the last scale
BUDGETS = (8, 12, 18, 27, 40, 60, 90)  # in steps at full size
SHALLOW = {"style_layers": ("relu1_1", "relu2_1", "relu3_1", "relu4_1")}


def painted(pair: tuple[str, str], size: int, coarse: tuple[int, ...], deep: bool) -> Iterator[Any]:
    """Losses and costs of a row of schedules."""
    content, style = (still.load(name) for name in pair)
    judge = Settings(size=size)
    settings = judge.changed(steps=(*coarse, LAST[-1]), **({} if deep else SHALLOW))
    plan = scales((content.shape[2], content.shape[3]), settings)
    pixels = [math.prod(shape) / math.prod(plan[-1][0]) for shape, _ in plan]
    before = sum(steps for _, steps in plan[:-1])
    spent = sum(steps * share for (_, steps), share in zip(plan[:-1], pixels, strict=False))
    for iterate in workbench.optimize(content, [style], settings):
        if (last := iterate.step - before) in LAST:
            loss = still.saved_loss(iterate.image, content, style, judge)
            schedule = [*(steps for _, steps in plan[:-1]), last]
            row = {"pair": still.title(pair), "size": size, "schedule": schedule, "deep": deep}
            yield {**row, "cost": spent + last, "loss": loss}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each size and budget, the best schedules: loss over the best of the pair, geometric."""
    yield "| size | budget | the best schedules: cost, loss over that of the best |"
    yield "| ---: | ---: | --- |"
    for size in sorted({row["size"] for row in rows}):
        for budget in BUDGETS:
            ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for pair in {row["pair"] for row in rows}:
                able = [
                    row
                    for row in rows
                    if (row["pair"], row["size"]) == (pair, size) and row["cost"] <= budget
                ]
                for row in able:
                    name = " + ".join(map(str, row["schedule"])) + " shallow" * (not row["deep"])
                    lowest = min(each["loss"] for each in able)
                    ratios[name].append((row["cost"], math.log(row["loss"] / lowest)))
            most = max((len(each) for each in ratios.values()), default=0)
            means = sorted(
                (sum(r for _, r in each) / most, each[0][0], name)
                for name, each in ratios.items()
                if len(each) == most
            )
            best = (f"{name}: {cost:.0f}, {math.exp(mean):.2f}" for mean, cost, name in means[:5])
            yield f"| {size} | {budget} | {'; '.join(best)} |"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--pair", nargs=2, action="append", metavar=("PHOTO", "STYLE"))
    parser.add_argument("--read", type=Path, help="lines of earlier runs to take in, too")
    options = parser.parse_args()
    rows = []
    if options.read:
        rows = [
            json.loads(line) for line in options.read.read_text().splitlines() if line[0] == "{"
        ]
    pairs = [tuple(pair) for pair in options.pair or still.PAIRS]
    for size in options.sizes:
        for pair in pairs:
            for coarse in COARSE[size]:
                for deep in (True, False) if coarse == (40, 40) else (True,):
                    for row in painted(pair, size, coarse, deep):
                        print(json.dumps(row), flush=True)
                        rows.append(row)
    print(*table(rows), sep="\n", file=sys.stdout)


if __name__ == "__main__":
    main()
