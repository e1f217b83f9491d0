"""One replica of a model in vLLM, run as a file by an interpreter that has vLLM and need not have `bm`.

Its argument is what EngineArgs takes, as JSON. Rows come in as lines, `[prompt, sample, tokens, SamplingParams]`, and
are answered by lines as they are ready, `[prompt, sample, tokens, ended, told]`. `told` is what the model says of the
row's own tokens where `prompt_logprobs` asks for it: by token null or {token: log-probability}. Text instead of a list
is the failure that ends it.
"""

import json
import os
import queue
import signal
import sys
from threading import Thread
from typing import IO, Any


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed, by vLLM's own processes too, is no answer
    rows: queue.Queue[str] = queue.Queue()
    Thread(target=_listen, args=(rows,), daemon=True).start()
    try:
        _answer(json.loads(sys.argv[1]), rows, channel)
    except Exception as problem:
        channel.write(json.dumps((str(problem).strip().splitlines() or [type(problem).__name__])[0]) + "\n")


def _listen(rows: "queue.Queue[str]") -> None:
    """Take rows from whoever started this, and end when it does: an orphan would hold its GPUs for ever."""
    for line in sys.stdin:
        rows.put(line)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _answer(settings: dict[str, Any], rows: "queue.Queue[str]", channel: IO[str]) -> None:
    import vllm  # type: ignore[import-not-found]
    from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]

    engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**settings))
    under_way: dict[str, tuple[int, int]] = {}
    while True:
        while not under_way or not rows.empty():
            prompt, sample, tokens, drawn = json.loads(rows.get())
            name = f"{prompt}-{sample}"
            under_way[name] = prompt, sample
            sampling = vllm.SamplingParams(**drawn, output_kind=RequestOutputKind.FINAL_ONLY)
            engine.add_request(name, {"prompt_token_ids": tokens}, sampling)
        for output in engine.step():
            if output.finished:
                answer = [*under_way.pop(output.request_id), *_response(output.outputs[0]), _told(output)]
                channel.write(json.dumps(answer) + "\n")


def _told(output: Any) -> "list[dict[int, float] | None] | None":
    """What vLLM says of the prompt's tokens; of the first it never says anything."""
    said = getattr(output, "prompt_logprobs", None)
    return said and [at and {token: about.logprob for token, about in at.items()} for at in said]


def _response(completion: Any) -> tuple[list[int], bool]:
    """Tokens without the end-of-text token, and whether the response ended by itself.

    One that met its end-of-text token has it as its last; one that met a stop string gives that as the reason.
    """
    ended, tokens = completion.finish_reason == "stop", list(completion.token_ids)
    return (tokens[:-1] if ended and not isinstance(completion.stop_reason, str) else tokens), ended


if __name__ == "__main__":
    main()
