"""What the model behind an endpoint says of texts, a request each: vLLM's `prompt_logprobs` of a completion."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

from bm.errors import UserError
from bm.generate.attempts import Attempts, Budget, Toll
from bm.generate.endpoint import Endpoint, ExhaustedError, RefusedError
from bm.generate.likely import likely
from bm.generate.samples import Likely

Texts = Sequence[tuple[list[int], int]]


def likeliest(endpoint: Endpoint, texts: Texts, k: int, parallel: int) -> Iterator[list[Likely]]:
    """See `Telling.likeliest`. The token ids are sent, so the server makes none of its own. UserError at the first text
    that it refuses, or of which nothing arrives with all retries."""
    stopped, waiting = Event(), list(reversed(range(len(texts))))
    flying: dict[Future[Likely], int] = {}

    def ask(place: int) -> Likely:
        ids, start = texts[place]
        request = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "extra_body": {"prompt_logprobs": k}}
        try:
            said = endpoint.told(request, stopped, Toll((place, 0), 0.0, Attempts(), Budget(None, 0.0)))
        except (RefusedError, ExhaustedError) as problem:
            raise UserError(f"{endpoint.name} does not tell what it thinks of a text: {problem}") from problem
        if said is None:
            raise UserError(
                f"{endpoint.name} sends no prompt_logprobs; serve the teacher with vLLM, or take its folder"
            )
        return likely(place, ids, start, said, k)

    with ThreadPoolExecutor(parallel) as pool:
        try:
            while waiting or flying:
                while waiting and len(flying) < parallel:
                    place = waiting.pop()
                    flying[pool.submit(ask, place)] = place
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                yield [future.result() for future in done if flying.pop(future, None) is not None]
        finally:
            stopped.set()
