"""One process of the distillation benchmark: TRL's GKDTrainer, reverse KL on its student's own responses, as JSON.

python -m experiments.speed.distill_trl STUDENT TEACHER WORK
"""

import json
import resource
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from experiments.speed.distill_workload import BATCH, LONGEST, RESPONSE, traces


class Counting(GKDTrainer):
    """Counts the tokens that are not padding: all that are learned from, and the generated ones among them."""

    tokens, generated = 0, 0

    @staticmethod
    def generate_on_policy_outputs(model: Any, inputs: Any, *arguments: Any) -> Any:
        made = GKDTrainer.generate_on_policy_outputs(model, inputs, *arguments)
        _, attended, _ = made
        Counting.tokens += int(attended.sum())
        Counting.generated += int(attended[:, inputs["prompts"].shape[1] :].sum())
        return made


def main(student: str, teacher: str, work: str) -> dict[str, float]:
    """Seconds of `GKDTrainer.train`, tokens that are not padding, peak memory. λ = 1: every response is its own."""
    rows = [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": r}]} for p, r in traces()]
    config = GKDConfig(
        output_dir=work, lmbda=1.0, beta=1.0, temperature=1.0, max_new_tokens=RESPONSE, max_length=LONGEST,
        num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=1e-5, report_to=[], logging_steps=1000,
        save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    load = AutoModelForCausalLM.from_pretrained
    trainer = Counting(
        model=load(student, dtype=torch.float32), teacher_model=load(teacher, dtype=torch.float32), args=config,
        train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(student),
    )  # fmt: skip
    start = time.perf_counter()
    trainer.train()
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "tokens": Counting.tokens,
        "generated": Counting.generated,
        "steps": trainer.state.global_step,
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(json.dumps(main(*sys.argv[1:])))
