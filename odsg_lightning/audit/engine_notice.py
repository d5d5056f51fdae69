"""Says, once, how the gradients of an audit are computed and why."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn  # they speak as Lightning's

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.gradients import check_has_engine, engine_choice
from odsg_lightning.saliency.protocol import Detector, EngineChoice
from odsg_lightning.saliency.targets import candidate_detector


class EngineNotice:
    """Logs which engine runs, and again only if that changes (a layer was replaced, say).

    Args:
        config: with the engine, the precision and the trimming that were asked for.
    """

    def __init__(self, config: AuditConfig) -> None:
        """See the class for the arguments."""
        self._config = config
        self._logged: EngineChoice | None = None

    def log_once(self, detector: Detector) -> None:
        """Log which engine serves this detector: a warning if another one was asked for by name.

        It runs part of the detector's code, so it belongs inside :func:`~odsg_lightning.audit.isolation.isolated`. An
        error in there is reported and goes no further: the audits themselves will meet what matters of it.

        Raises:
            MisconfigurationException: an engine was asked for by name, and the detector has plain autograd only; or a
                target was, and it returns detections alone.
        """
        engine, precision, trim = self._config.engine, self._config.precision, self._config.trim
        try:
            check_has_engine(detector, engine)
            if self._config.target != "output":
                candidate_detector(detector)
        except UserInputError as error:
            raise MisconfigurationException(str(error)) from error
        try:
            choice = engine_choice(detector, engine, precision, trim)
            as_asked = engine in ("auto", choice.name) and (choice.precision, choice.trim) == (precision, trim)
        except Exception as error:
            reason = f"asking which one runs raised {type(error).__name__}: {error}"
            choice = EngineChoice(engine, precision, reason, trim)
            as_asked = False
        if choice == self._logged:
            return
        self._logged = choice
        approximate = " (approximate)" if choice.approximate else ""
        runs = _settings(choice.name, choice.precision, choice.trim)
        text = f"ODSmoothGrad audits with {runs}{approximate}"
        if as_asked:
            rank_zero_info(f"{text}: {choice.reason}")
        else:
            rank_zero_warn(f"{text}, where {_settings(engine, precision, trim)} was asked for: {choice.reason}")


def _settings(engine: str, precision: str, trim: float) -> str:
    return f"engine={engine!r}, precision={precision!r}" + (f", trim={trim!r}" if trim else "")
