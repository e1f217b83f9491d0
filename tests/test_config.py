"""How settings count: those that change how a result is made, and not the result, are no part of its identity."""

from bm.config import Evaluate, identity, resolved, typed


def test_how_a_result_is_made_is_not_in_its_identity() -> None:
    def engine(parallel: int, temperature: float) -> Evaluate:
        node = {
            "_target_": "bm.generate.engines.openai",
            "served": "m",
            "base_url": "http://host/v1",
            "key": None,
            "parallel": parallel,
        }
        settings = {"tasks": [], "include_path": None, "limit": None, "samples": 1, "temperature": temperature}
        settings |= {"top_p": 1, "max_new_tokens": 9, "unsafe_code": False, "chat_template": True, "resamples": 9}
        settings |= {"data": {}, "traces": [], "race": None}
        return typed(Evaluate, {**settings, "engine": node, "confidence": 0.9, "seed": 1})

    assert identity(engine(1, 0.5)) == identity(engine(8, 0.5)) != identity(engine(1, 0.6))
    assert resolved(engine(1, 0.5)) != resolved(engine(8, 0.5))
