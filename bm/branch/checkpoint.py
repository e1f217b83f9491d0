"""Where a run stands, on disk: written beside and renamed, so that a kill at any moment leaves the last whole one.

The format is torch's distributed checkpoint: every rank writes its shards, and any other number of ranks can read them.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from bm.errors import UserError

NAME, NEW, OLD = "checkpoint", ".checkpoint.new", ".checkpoint.old"
STATE = "state.json"
OPTIMIZER = "optimizer"
More: TypeAlias = Mapping[str, Mapping[str, Tensor]]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRAPPED = r"os error (\d+)|\d+ requested and \d+ written"
"""What safetensors and NumPy say of a write that failed, without the number that an OSError has."""


@dataclass(frozen=True)
class State:
    """What has been done: optimiser steps, tokens through the model, tokens with a loss, seconds of training."""

    step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0

    def after(self, tokens: int, supervised_tokens: int, seconds: float) -> "State":
        """One step later."""
        supervised = self.supervised_tokens + supervised_tokens
        return State(self.step + 1, self.tokens + tokens, supervised, self.seconds + seconds)


class Background:
    """Where checkpoints are written while training goes on, one at a time; made and used by all ranks together.

    Ranks say what they have written in a group of their own: among the messages of training those would be mistaken.
    """

    def __init__(self, stack: ExitStack) -> None:
        """The end of `stack` waits for the last checkpoint, whatever ends the training."""
        self._thread = stack.enter_context(ThreadPoolExecutor(1))
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._last: Future[None] | None = None

    def write(self, work: Path, held: dict[str, Any], state: State) -> None:
        """Returns when there is a copy in CPU memory of what is `held`, which training may change from then on."""
        written = state_dict_saver.async_save(
            held, checkpoint_id=work / NEW, process_group=self._group, no_dist=not dist.is_initialized()
        )
        assert isinstance(written, Future)

        def replaced() -> None:
            written.result()
            _replace(work, state)

        self._last = self._thread.submit(replaced)

    def idle(self) -> bool:
        """Whether this rank has nothing left to write; raises what went wrong with the last checkpoint."""
        if self._last is not None and self._last.done():
            self.wait()
        return self._last is None

    def wait(self) -> None:
        """Until this rank has written the last checkpoint; raises what went wrong with it."""
        if self._last is not None:
            self._last.result()
        self._last = None


def save(
    work: Path, model: nn.Module, optimizer: Optimizer, state: State, more: More | None = None,
    background: Background | None = None,
) -> None:  # fmt: skip
    """Weights, optimiser state, more tensors by name, and `state` to `work/checkpoint`; by all ranks together."""
    if background is not None:
        background.wait()
        _wait()
    if _first():
        shutil.rmtree(work / NEW, ignore_errors=True)
    _wait()
    held = {**_trained(model, optimizer), **(more or {})}
    if background is not None:
        background.write(work, held, state)
    else:
        state_dict_saver.save(held, checkpoint_id=work / NEW, no_dist=not dist.is_initialized())
        _replace(work, state)
        _wait()


def _replace(work: Path, state: State) -> None:
    """The last checkpoint by the new one, which is whole; by the first rank."""
    if _first():
        (work / NEW / STATE).write_text(json.dumps(asdict(state)))
        shutil.rmtree(work / OLD, ignore_errors=True)
        if (work / NAME).exists():
            os.replace(work / NAME, work / OLD)
        os.replace(work / NEW, work / NAME)
        shutil.rmtree(work / OLD, ignore_errors=True)


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _trained(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What steps change: all weights, or those of an adapter; and the optimiser's state."""
    weights, moments = get_state_dict(model, optimizer)
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {"model": {name: value for name, value in weights.items() if name not in frozen}, "optimizer": moments}


def save_optimizer(work: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """The optimiser's state to `work/optimizer`, for a training that continues elsewhere; by all ranks together."""
    _, moments = get_state_dict(model, optimizer)
    state_dict_saver.save({"optimizer": moments}, checkpoint_id=work / OPTIMIZER, no_dist=not dist.is_initialized())


def load_optimizer(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """What `save_optimizer` left in a folder into place, the weights as they are; by all ranks together."""
    weights, moments = get_state_dict(model, optimizer)
    state_dict_loader.load({"optimizer": moments}, checkpoint_id=folder / OPTIMIZER, no_dist=not dist.is_initialized())
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def _place(work: Path) -> Path | None:
    """The last whole checkpoint."""
    return next((place for place in (work / NAME, work / OLD) if (place / STATE).exists()), None)


def reached(work: Path) -> State:
    """Where an earlier run stood at its last checkpoint; the beginning if there is none."""
    place = _place(work)
    return State(**json.loads((place / STATE).read_text())) if place else State()


def load(work: Path, model: nn.Module, optimizer: Optimizer, more: More | None = None) -> None:
    """Weights, optimiser state and more tensors of the last checkpoint into place; by all ranks together."""
    into = {**_trained(model, optimizer), **(more or {})}
    state_dict_loader.load(into, checkpoint_id=_place(work), no_dist=not dist.is_initialized())
    options = StateDictOptions(strict=all(p.requires_grad for p in model.parameters()))
    set_state_dict(
        model, optimizer, model_state_dict=into["model"], optim_state_dict=into["optimizer"], options=options
    )


@contextmanager
def room_on_disk(name: str, work: Path) -> Iterator[None]:
    """A disk that fills up inside is a UserError; the last whole checkpoint of `work` stays, a half one does not."""
    try:
        yield
    except (Exception, CheckpointException) as problem:
        if not _disk_is_full(problem):
            raise
        shutil.rmtree(work / NEW, ignore_errors=True)
        step = reached(work).step
        raise UserError(
            f"{name}: no room left on the disk of {work}; free some and rerun the command to resume "
            + (f"after step {step}" if step else "from the beginning")
        ) from problem


def _disk_is_full(problem: BaseException | None) -> bool:
    """Whether a disk, a quota or a limit on files ended a write, however the libraries have wrapped that."""
    while problem is not None:
        if isinstance(problem, CheckpointException):  # by rank: an exception and where it was raised
            return any(_disk_is_full(failure) for failure, _ in problem.failures.values())
        said = re.search(WRAPPED, str(problem))
        if getattr(problem, "errno", None) in FULL or (said and (said[1] is None or int(said[1]) in FULL)):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def remove(work: Path) -> None:
    for name in (NAME, NEW, OLD):
        shutil.rmtree(work / name, ignore_errors=True)
