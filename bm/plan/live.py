"""How many bytes tensors hold at a time, counted as operations make and drop them."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that operations inside have made: `now`, and the most so far, `peak`.

    A storage counts once however many tensors show it, with the size that it has at the moment: FSDP2 frees what it has
    gathered by resizing it to nothing. Of a DTensor this rank's part counts.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._here = True

    def __enter__(self) -> "Live":
        self._resize = torch.UntypedStorage.resize_
        resize = self._resize

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if storage._cdata in self._sizes:
                self._count(storage._cdata, size)
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *ended: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*ended)  # type: ignore[no-untyped-call]

    def restart(self) -> int:
        """The most since the last restart; from here on it is counted anew."""
        peak, self.peak = self.peak, self.now
        return peak

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """What is made inside is in other memory than that which is counted."""
        self._here = False
        try:
            yield
        finally:
            self._here = True

    def leaves(self, tensor: Tensor) -> None:
        """A tensor is in other memory from here on."""
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        self._count(local.untyped_storage()._cdata, 0)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.to_local() if isinstance(tensor, DTensor) else tensor)
        return made

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._count(storage._cdata, storage.nbytes() if self._here else 0)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _count(self, storage: int, size: int) -> None:
        self.now += size - self._sizes.get(storage, 0)
        self._sizes[storage] = size
        self.peak = max(self.peak, self.now)

    def _drop(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage, 0)
