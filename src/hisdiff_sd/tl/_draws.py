"""How samples are drawn: how many, by which sampler, in how many steps, of which seed."""

from __future__ import annotations

from dataclasses import dataclass

from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._precision import PRECISIONS
from hisdiff_sd.nn import DEFAULT_SAMPLER, SAMPLERS, check_steps, spaced_timesteps

FLOW = "flow"
_FLOW_STEPS = 10


@dataclass(frozen=True)
class Draws:
    """How samples are drawn.

    Attributes
    ----------
    n_samples
        Samples per spot.
    sampler, steps
        One of `hisdiff_sd.nn.SAMPLERS` for the published process, ``"flow"`` for a flow; evaluations of the network per
        sample.
    seed
        Of the noise.
    batch_size
        Spots x samples that are denoised together; None has it chosen.
    precision
        That the published network computes in: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``. Steps of the sampler, and flows,
        are always in fp32.
    depth
        Counts relative to those of the training slides, for a model of raw counts.
    """

    n_samples: int
    sampler: str
    steps: int
    seed: int
    batch_size: int | None = None
    precision: str = "auto"
    depth: float = 1.0

    @classmethod
    def of(
        cls,
        process: str,
        n_samples: int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        precision: str = "auto",
        depth: float = 1.0,
    ) -> Draws:
        """Draws from a model of the process ``"ddpm"`` or ``"flow"``; what is not given is as good as it gets cheaply."""
        check_draws(n_samples, sampler=sampler, steps=steps, batch_size=batch_size, precision=precision)
        if process == FLOW:
            if sampler not in (None, FLOW):
                raise HisDiffError(
                    f"sampler={sampler!r} is one of the published process, and the model is a flow, which has its own; leave "
                    "sampler= out"
                )
            return cls(n_samples, FLOW, _FLOW_STEPS if steps is None else steps, seed, batch_size, precision, depth)
        name = DEFAULT_SAMPLER if sampler is None else sampler
        check_one_of(name, SAMPLERS, "sampler of the published process")
        steps = SAMPLERS[name] if steps is None else steps
        check_steps(name, steps)
        return cls(n_samples, name, steps, seed, batch_size, precision, depth)


def check_draws(
    n_samples: int,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
) -> None:
    """Refuse what no model can draw, before a model is loaded."""
    if n_samples < 1:
        raise HisDiffError(f"n_samples={n_samples} draws nothing; 1 or more are needed")
    if sampler is not None:
        check_one_of(sampler, (*SAMPLERS, FLOW), "sampler")
    if steps is not None:
        spaced_timesteps(steps)
    if batch_size is not None and batch_size < 1:
        raise HisDiffError(f"batch_size={batch_size} denoises nothing; leave it out to have it chosen")
    check_one_of(precision, PRECISIONS, "precision")
