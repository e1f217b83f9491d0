"""Instructions whose keeping can be checked: what a chat model could do before it was trained on anything else."""

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

from bm.evaluate.sets import Split, made

SUBJECTS = (
    "the sea", "a rainy day", "how bread is made", "a garden in spring", "the moon", "why people sleep", "a market",
    "riding a bicycle", "a good friend", "the colour blue", "how a letter travels", "a small village", "learning music",
    "winter", "the work of a doctor", "a walk in the forest", "drinking tea", "old books", "how birds fly", "a train",
)  # fmt: skip
WORDS = ("bridge", "window", "river", "lantern", "silver", "quiet", "morning", "stone", "travel", "garden")
COMMON = ("the", "and", "is", "of", "it", "a", "to", "in", "very", "that")
OPENINGS = ("In short", "Once upon a time", "Dear reader", "Let me explain", "First of all")
ENDINGS = ("That is all.", "The end.", "Thank you for reading.", "I hope this helps.", "Have a nice day.")
KEYS = ("title", "name", "summary", "answer", "topic")

SHORT, FREE = "Write one or two sentences about {}.", "Write about {}."
KINDS = {
    "lower_case": (SHORT, "Use lower case only, no capital letter at all.", (True,)),
    "capitals": (SHORT, "Use CAPITAL LETTERS only, no small letter at all.", (True,)),
    "no_commas": (SHORT, "Do not use any commas.", (True,)),
    "keyword": (SHORT, 'Use the word "{}" in your answer.', WORDS),
    "without": (SHORT, 'Do not use the word "{}".', COMMON),
    "most_words": (FREE, "Use at most {} words in all.", (10, 15, 20, 25, 30)),
    "least_words": (FREE, "Use at least {} words in all.", (30, 35, 40, 45, 50)),
    "bullets": (FREE, 'Answer with exactly {} bullet points, each on a line that begins with "- ".', (2, 3, 4, 5)),
    "sentences": (FREE, "Write exactly {} sentences.", (2, 3, 4, 5)),
    "starts": (SHORT, 'Begin your answer with the words "{}".', OPENINGS),
    "ends": (SHORT, 'End your answer with the words "{}"', ENDINGS),
    "json_key": (FREE, 'Answer with nothing but one JSON object that has the key "{}".', KEYS),
}
"""A request, an instruction, and the values that fill it, by the name under which `bm.verify.instructions` has it."""


def questions(each: int, seed: int, file: str | None = None, **_: Any) -> Split:
    """`each` questions of every kind, their subjects drawn from the seed; UserError if a file is put in their place."""
    return made(_drawn(each, random.Random(seed)), file)


def _drawn(each: int, drawing: random.Random) -> Iterator[dict[str, str]]:
    for kind, (request, instruction, values) in KINDS.items():
        for number, subject in enumerate(drawing.sample(SUBJECTS, each)):
            value = values[number % len(values)]
            text = f"{request.format(subject)} {instruction.format(value)}"
            yield {
                "id": hashlib.sha256(text.encode()).hexdigest()[:16], "question": text, "prompt": text, "system": "",
                "answer": kind, "verifier": "instructions",
                "metadata": json.dumps({"instruction": kind, "value": value}),
            }  # fmt: skip
