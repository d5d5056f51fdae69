"""Which replacement and margin tells honest detectors from bad ones? A table of the half ``decide`` alone.

    python examples/studies/choose.py            # after occlude.py --half decide

For each way of hiding pixels: mean and standard deviation, over honest detectors, of the score that is kept (``keep``)
or lost (``hide``), and, for each cue, how far the bad detectors lie below the honest ones on the same pictures.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectors import BAD, HONEST, named
from rich.console import Console
from rich.table import Table


def object_values(rows: list[dict], name: str) -> list[float]:
    """Return the value of each detected object, 0 to 1, higher is better; of several replacements (``+``) the least."""
    way, replacements, margin = name.split("/")
    names = [f"{way}/{replacement}/{margin}" for replacement in replacements.split("+")]
    shares = [[min(row[one][0] / row["score"], 1.0) for one in names] for row in rows if "score" in row]
    return [min(some) if way == "keep" else 1 - max(some) for some in shares]


def read(folder: Path, half: str) -> dict[tuple[str, str], list[dict]]:
    """Return the rows of every detector and set of pictures of a half."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        name, cue = path.stem.split("--")
        if named(name)[0].half == half:
            found[name, cue] = json.loads(path.read_text(encoding="utf-8"))
    return found


def means_by(found: dict[tuple[str, str], list[dict]], data: str, group: str, variant: str) -> dict[str, list[float]]:
    """Return the means of a group's detectors, by the cue in the pictures."""
    means: dict[str, list[float]] = {}
    for (name, cue), rows in found.items():
        detector = named(name)[0]
        if (detector.data, detector.group) == (data, group):
            label = f"{cue}-half" if detector.share < 1 else cue
            values = object_values(rows, variant)
            if values:
                means.setdefault(label, []).append(float(np.mean(values)))
    return means


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--half", choices=("decide", "report"), default="decide")
    arguments = parser.parse_args(args)
    found = read(arguments.output / "occluded", arguments.half)
    console = Console(width=160)
    for data in ("shapes", "photos"):
        of_data = {key: rows for key, rows in found.items() if named(key[0])[0].data == data}
        variants = sorted({name for rows in of_data.values() for row in rows for name in row if "/" in name})
        if not variants:
            console.print(f"{data}, half {arguments.half}: {len(of_data)} sets of pictures measured, nothing detected.")
            continue
        margins = {name.rpartition("/")[2] for name in variants}
        variants += sorted(f"keep/blur+grey/{margin}" for margin in margins)
        cues = sorted(means_by(of_data, data, BAD, variants[0]))
        honest_models = len({name for name, _ in of_data if named(name)[0].group == HONEST})
        table = Table(title=f"{data}, half {arguments.half}: {honest_models} honest checkpoints")
        for column in ("hidden", "honest", "sd", *cues):
            table.add_column(column, justify="left" if column == "hidden" else "right")
        for variant in variants:
            honest = means_by(of_data, data, HONEST, variant)
            bad = means_by(of_data, data, BAD, variant)
            everything = [mean for means in honest.values() for mean in means]
            spread = f"{np.std(everything, ddof=1):.3f}" if len(everything) > 1 else ""
            cells = [variant, f"{np.mean(everything):.3f}" if everything else "", spread]
            for cue in cues:
                same = honest.get(cue.removesuffix("-half"), everything)
                cells.append(f"{np.mean(same) - np.mean(bad[cue]):+.2f}" if same else "")
            table.add_row(*cells)
        console.print(table)


if __name__ == "__main__":
    main()
