"""Where a tensor sits in a model, read from its name."""

import re
from dataclasses import dataclass

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_KIND = re.compile(r"\.(?:weight|bias)$")


@dataclass(frozen=True)
class Place:
    """`layer` is −1 outside the layers; `module` is the name within the layer, e.g. `mlp.up_proj`, `embed_tokens`."""

    layer: int
    module: str

    @classmethod
    def of(cls, name: str) -> "Place":
        match = _LAYER.search(name)
        if match:
            inner = _KIND.sub("", name[match.end() :])
            return cls(int(match[1]), re.sub(r"^(self_attn|attn|attention)\.", "", inner))
        return cls(-1, _KIND.sub("", name).rsplit(".", 1)[-1])
