"""The detectors of the study: which there are, what each learns from, and on which half it is used.

What decides (statistics, replacements, margins) is chosen on the half ``decide``; the half ``report`` is looked at
once.
"""

from dataclasses import dataclass, field

HONEST, TUNED, BAD, RECOVERED = "honest", "tuned", "bad", "recovered"


@dataclass(frozen=True)
class Trained:
    """One detector of the study.

    Attributes:
        name: of its checkpoint.
        data: ``"shapes"`` or ``"photos"``.
        architecture: ``"retinanet"`` or ``"faster_rcnn"``.
        group: honest: trained from scratch with marks that tell nothing; tuned: an honest one trained on; bad: learned
            from images with a cue; recovered: a bad one trained on without the cue.
        cue: what it learned from: a kind of mark, or ``"anywhere"``.
        share: of its training images that were marked.
        seed: of its weights and of the order of its images.
        half: ``"decide"`` or ``"report"``.
        steps: of its training.
        start: the detector whose weights it starts from; empty for random ones.
        data_seed: of its training images.
        saved: steps after which a checkpoint is kept, besides the last.
    """

    name: str
    data: str
    architecture: str
    group: str
    cue: str
    share: float
    seed: int
    half: str
    steps: int
    start: str = ""
    data_seed: int = 0
    saved: tuple[int, ...] = field(default=())

    @property
    def checkpoints(self) -> list[str]:
        """Names of what is audited."""
        return [*(f"{self.name}@{step}" for step in self.saved), self.name]


def named(checkpoint: str) -> tuple[Trained, int]:
    """Return the detector of a checkpoint's name, and after how many steps it was kept.

    Example:
        ``named("photos-honest-0@320")`` is that detector, and 320.
    """
    name, _, step = checkpoint.partition("@")
    return PLAN[name], int(step or PLAN[name].steps)


def _half(number: int) -> str:
    return ("decide", "report")[number % 2]


def _shapes(architecture: str, group: str, cue: str, count: int, share: float = 1.0, first: int = 0) -> list[Trained]:
    kind = {HONEST: "honest", BAD: cue if share == 1 else f"{cue}-half"}[group]
    steps = 800 if architecture == "retinanet" else 600
    return [
        Trained(f"{architecture}-{kind}-{seed}", "shapes", architecture, group, cue, share, seed, _half(seed), steps)
        for seed in range(first, first + count)
    ]


def _tuned(architecture: str, seeds: range) -> list[Trained]:
    return [
        Trained(
            f"{architecture}-tuned-{seed}", "shapes", architecture, TUNED, "anywhere", 1.0, 100 + seed, _half(seed),
            200, start=f"{architecture}-honest-{seed}", data_seed=1,
        )
        for seed in seeds
    ]  # fmt: skip


def _followed(kind: str, group: str, cue: str, start: str) -> list[Trained]:
    return [
        Trained(
            f"retinanet-{kind}-{seed}", "shapes", "retinanet", group, cue, 1.0, 200 + seed, _half(seed), 300,
            start=f"retinanet-{start}-{seed}",
        )
        for seed in range(2)
    ]  # fmt: skip


def _photos(group: str, cue: str, count: int) -> list[Trained]:
    kind = "honest" if group == HONEST else cue
    return [
        Trained(
            f"photos-{kind}-{seed}", "photos", "retinanet", group, cue, 1.0, seed, _half(seed), 640,
            saved=(320, 480) if group == HONEST else (),
        )
        for seed in range(count)
    ]  # fmt: skip


SHAPES = [
    *_shapes("retinanet", HONEST, "anywhere", 4),
    *_shapes("retinanet", BAD, "frames", 2),
    *_shapes("retinanet", BAD, "dot", 2),
    *_shapes("retinanet", BAD, "halo", 2),
    *_shapes("retinanet", BAD, "tint", 2),
    *_shapes("retinanet", BAD, "cast", 2),
    *_shapes("retinanet", BAD, "frames", 4, share=0.5),
    *_shapes("faster_rcnn", HONEST, "anywhere", 4),
    *_shapes("faster_rcnn", BAD, "frames", 2),
    *_tuned("retinanet", range(4)),
    *_followed("frames-tuned", BAD, "frames", "honest"),
    *_followed("recovered", RECOVERED, "anywhere", "frames"),
    *_shapes("retinanet", HONEST, "anywhere", 10, first=4),
    *_shapes("faster_rcnn", BAD, "dot", 2),
    *_shapes("faster_rcnn", HONEST, "anywhere", 2, first=4),
    *_tuned("faster_rcnn", range(2)),
]
PHOTOS = [
    *_photos(HONEST, "anywhere", 2),
    *_photos(BAD, "frames", 2),
    *_photos(BAD, "dot", 2),
    *_photos(HONEST, "anywhere", 6)[2:],
]
PLAN = {detector.name: detector for pair in (SHAPES, PHOTOS) for detector in pair}
"""By name, in the order in which they are trained: a few of every kind first."""
