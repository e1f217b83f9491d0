"""What each verifier takes for right and for wrong: disguises of the reference, and answers that only look like it."""

import json

import pytest

from bm.verify import Case, verify
from tests.verify.conftest import BUBBLEWRAP, verifying

SETTINGS = verifying(seconds=20)
NUMBERS = {  # reference: (accepted, refused)
    "1000": (["1000", "1,000", "1{,}000", "1 000", "1000.0", "1e3", "1.0 x 10^3", "1 thousand",
              "The answer is 1000.", "$1000$", "10^3", "10³",
              "The total is 1000, not 1005.", "1000 apples (from 5 boxes)", "\\boxed{1000}", "it is 3 + 997 = 1000",
              "1000 apples"],
             ["1005", "999", "1000.5", "between 999 and 1000", "999-1000", "999 to 1000", "999 or 1000", "100", "10000",
              "-1000", "1e4", "many", "1.0 x 10^4", "1005, not 1000", "not 1000", "The answer is not 1000",
              "it isn't 1000", "less than 1000", "more than 1000", "at least 1000", "2 times 1000", "1000 squared",
              "1000 or more",
              "the square root of 1000", "1000 ± 5", "1000k", "1000 million", "minus 1000", "1000/2", "1000!"]),
    "-3": (["-3", "−3", "minus 3", "negative 3", "(-3)", "–3"], ["3", "+3", "5 minus 3"]),
    "3.5": (["3 1/2", "3½", "7/2", "3.5 hours", "The answer is 3.5 times."], ["35", "3.5 times 2", "3.5 or 4", "3 5"]),
    "540": (["540", "540.", "540.00", "So we get 540 miles", "Answer: 540", "#### 540"], ["545", "539", "5.4", "54"]),
    "5": (["5", "five is 5", "The difference between 12 and 7 is 5", "5.0", "x = 5"],
          ["between 4 and 5", "4 to 5", "4-5", "4 – 5", "from 4 to 5", "between $4 and $5", "5.01", "4.99"]),
    "3e8": (["3.0 x 10^8", "3.0 X 10^8", "3×10^8", "3·10^8", "3.0 x 10⁸", "$3 \\times 10^{8}$ m/s", "2.99e8",
             "300000000", "300 million", "3.01 x 10^8 m/s"], ["3.0 x 10^7", "3.0", "108", "3.0 x 10^{-8}", "2.9e8"]),
    "5 km": (["5 km", "5000 m", "5,000 meters", "500000 cm", "5 kilometers", "5"], ["5 m", "5 cm", "500 m", "5001 m",
             "5 kg", "5 km^2", "50 km"]),
    "60 minutes": (["60 min", "1 hour", "3600 s", "60"], ["1 minute", "1 day", "2 hours", "60 s", "60 m"]),
    "1.5 dollars": (["$1.50", "150 cents", "1.5 USD", "150¢"], ["1.5 cents", "15 cents", "$15", "1.5 euros"]),
    "2 m^2": (["2 m^2", "20000 cm^2", "2 square meters"], ["2 m", "200 cm^2", "2 m^3"]),
    "0.5": (["0.5", "50%", ".5", "1/2", "\\frac{1}{2}", "50 percent"], ["0.5%", "0.5 percent", "5%", "50", "500%"]),
    "50": (["50", "5000%", "50%", "50 percent"], ["0.5%", "0.5"]),
    "0.5%": (["0.5%", "0.005", "0.5 percent"], ["0.5", "50%", "5%"]),
    "9.81": (["9.81 m/s", "9.81 m/s^2", "9.8", "9.82"], ["9.6", "98.1", "10"]),
}  # fmt: skip
CHOICES = {  # of B
    True: ["B", "(B)", "b", "The answer is B, not C.", "Not A but B", "B, since A is wrong", "C is incorrect, so B",
           "The answer is B. That answer is supported by the text.", "Answer: B\n\nThis answer is clear to me.",
           "A is wrong and C is not right; the answer is B", "The answer is (B). This answer is correct.",
           "It is neither A nor C, it is B", "B rather than C", "**B**", "\\boxed{\\text{B}}", "answer b", "Choice (b)",
           "A? No, B.", "I choose B",
           "B is correct because A contradicts the text", "So B is the right one", "Option B", "B. x2"],
    False: ["The answer is not B", "It isn't B", "It isn’t B.", "It cannot be B", "Not B.", "B is wrong",
            "The correct answer isn't (B)", "Anything except B", "B is incorrect", "neither B nor C", "B or C",
            "The answer is not B or A", "The answer is not B but C", "B is not the answer; C is", "never B",
            "The answer is not (B).", "not option B", "B was false", "C rather than B", "A", "Brilliant", "B and C",
            "anything but B", "All but B", "Everything but B", "other than B", "B can be ruled out", "B is ruled out",
            "We can rule out B", "We can eliminate B", "B is eliminated", "I would not choose B", "B? No.", "B? No, C.",
            "It is wrong to choose B", "B is the wrong answer", "B is an incorrect choice", "B or not", "B/C",
            "I doubt that it is B"],
}  # fmt: skip
FORMULAS = {
    "7": (["\\boxed{7}", "The answer is 7. This answer is correct.", "Answer: 7\nI hope this answer is clear.",
           "The answer is 7.\nThis answer: checked twice.", "The answer is $7$. The answer makes sense: 3 + 4 = 7.",
           "**Answer:** 7\n\nThat answer is consistent with the table.", "7.0", "14/2"],
          ["between 6 and 7", "6 to 7", "The answer is 8. This answer is not 7", "7!", "7i", "The answer is not 7",
           "it is more than 7"]),
    "0.5": (["\\boxed{50\\%}", "\\boxed{\\frac12}"], ["\\boxed{0.5\\%}", "\\boxed{5\\%}"]),
    "3.0 \\times 10^8": (["3.0 x 10^8", "\\boxed{3 \\times 10^8}", "300{,}000{,}000"], ["3.0 x 10^9", "\\boxed{3.0}"]),
    "5 \\text{ km}": (["\\boxed{5000 \\text{ m}}", "5 km"], ["\\boxed{5 \\text{ m}}", "\\boxed{5000 \\text{ km}}"]),
}  # fmt: skip
ADD = "print(sum(map(int, input().split())))"
PROGRAMS = {
    True: [
        f"```python\n{ADD}\n```", f"<answer>\n```python\n{ADD}\n```</answer>",
        f"<answer>```python\n{ADD}\n```</answer>",
        f"```python\n{ADD}\n```\nOutput:\n```\n3\n```", f"```py\n{ADD}\n```\n```text\n3\n```", f"```\n{ADD}\n```",
        f"~~~python\n{ADD}\n~~~", f"```Python\n{ADD}\n```  \nIt prints the sum.", ADD, f"```python\n{ADD}",
    ],
    False: [
        f"```python\nprint(4)\n```</answer>\n```\n{ADD}\n```", f"```python\n{ADD}\n```\n```python\nprint(4)\n```",
        "```\n3\n```\nand no program", "```cpp\nint main() {}\n```", f"```python\n{ADD}+1\n```", "",
    ],
}  # fmt: skip
TABLE = [
    (verifier, text, reference, "", good)
    for verifier, rows in (("number", NUMBERS), ("math", FORMULAS))
    for reference, sides in rows.items()
    for good, texts in zip((True, False), sides, strict=True)
    for text in texts
]
TABLE += [("choice", text, "B", '{"choices": ["x1", "x2", "x3"]}', good) for good in CHOICES for text in CHOICES[good]]
TESTS = json.dumps({"tests": {"inputs": ["1 2\n"], "outputs": ["3\n"]}})
TABLE += [("code", text, "", TESTS, good) for good in PROGRAMS for text in PROGRAMS[good]]

pytestmark = BUBBLEWRAP


@pytest.mark.parametrize(("verifier", "text", "reference", "metadata", "good"), TABLE)
def test_disguises_pass_and_near_misses_do_not(verifier, text, reference, metadata, good):
    for response in (text, f"<think>\nIs it 13? (C)?\n</think>\n\n{text}"):
        assert verify(Case(verifier, response, reference, metadata), SETTINGS).accepted is good


def test_the_table_is_long():
    assert len(set(TABLE)) == len(TABLE) >= 150
