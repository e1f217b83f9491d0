"""Programs against tests: what passes, what fails and how, and what cannot be forged."""

import json

import pytest

from bm.verify import Case, Verdict, verify, verify_all
from bm.verify.sandbox import check
from tests.verify.conftest import BUBBLEWRAP, verifying

SETTINGS = verifying(seconds=60, memory_mb=256, output_kb=256)
ADD = "print(sum(map(int, input().split())))"


def case(source: str, inputs=("1 2\n",), outputs=("3\n",), name: str | None = None, fence: str = "python") -> Case:
    tests = {"inputs": list(inputs), "outputs": list(outputs)} | ({"fn_name": name} if name else {})
    response = f"<think>\n```python\nprint(0)\n```\n</think>\n\nHere:\n\n```{fence}\n{source}\n```\nDone."
    return Case("code", response, "", json.dumps({"tests": tests}))


def judged(source: str, *arguments, **more) -> Verdict:
    return verify(case(source, *arguments, **more), SETTINGS)


pytestmark = BUBBLEWRAP


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (ADD, ""),
        ("print(4)", "wrong output on test 1"),
        ("", "no program"),
        ("print(", "runtime error on test 1"),
        ("1 / 0", "runtime error on test 1"),
        ("import numpy", "runtime error on test 1"),
        ("print(3); raise SystemExit(1)", "runtime error on test 1"),
        ("print(3); exit()", ""),
        ("import sys; print(3); sys.exit(0)", ""),
        ("print('3' * 10**6)", "output limit on test 1"),
        ("x = bytearray(10**9)", "memory limit on test 1"),
        ("while True: pass", "time limit on test 1"),
        ("import sys; sys.stdout.write(sys.stdin.readline().replace('1 2', '3'))", ""),
        ("print(open(0).read().count('1') + 2)", ""),
        ("import threading\nt = threading.Thread(target=print, args=(3,)); t.start()", ""),
        ("if __name__ == '__main__': print('3')", ""),
    ],
)
def test_how_a_script_fails(source, reason):
    seconds = 1 if reason.startswith("time limit") else 60
    verdict = verify(case(source), verifying(seconds=seconds, memory_mb=256, output_kb=256))
    assert (verdict.accepted, verdict.reason) == (not reason, reason)


def test_the_first_test_that_fails_is_named_and_counted_with_its_kind():
    verdict = judged(ADD, ["1 2", "2 2", "5 5"], ["3", "4", "11"])
    assert (verdict.reason, verdict.kind) == ("wrong output on test 3", "wrong output")
    assert verdict.answer == ADD + "\n"


@pytest.mark.parametrize(
    ("printed", "expected", "accepted"),
    [
        ("1  2\n3 ", "1 2\n3\n", True),
        ("0.3333333333", "0.33333333", True),
        ("0.334", "0.333", False),
        ("1.0", "1", True),
        ("1.1", "1", False),
        ("1", "1.0", True),
        ("12", "1 2", False),
        ("yes", "YES", False),
        ("1 2 3", "1 2", False),
        ("", "", True),
        ("1000000007", "1000000008", False),
        ("nan", "1.5", False),
    ],
)
def test_output_is_compared_word_by_word(printed, expected, accepted):
    assert judged(f"print({printed!r})", [""], [expected]).accepted is accepted


FUNCTIONS = [
    ("def add(a, b): return a + b", True),
    ("class Solution:\n    def add(self, a: int, b: int) -> Optional[int]:\n        return a + b", True),
    ("def add(a, b):\n    print('noise')\n    return a + b", True),
    ("def add(a, b): print(a + b)", False),
    ("def add(a, b): return str(a + b)", False),
    ("def plus(a, b): return a + b", False),
    ("def add(a, b): return {1, 2}", False),
    ("def add(a, b): return add(a, b)", False),
]


@pytest.mark.parametrize(("source", "accepted"), FUNCTIONS)
def test_a_function_in_both_published_layouts(source, accepted):
    assert judged(source, [[1, 2], [3, 4]], [3, [7]], "add").accepted is accepted
    assert judged(source, ["1\n2", "3\n4"], ["3", "7"], "add").accepted is accepted


def test_results_of_functions_keep_their_shape():
    assert judged("def f(x): return (x, [x / 3])", [[1]], [[1, [0.33333333]]], "f").accepted
    assert judged("def f(x): return {x: x}", [["a"]], [{"a": "a"}], "f").accepted
    assert not judged("def f(x): return [[x]]", [[1]], [[1]], "f").accepted
    assert judged("def f(x): return deque([x])[0] + gcd(4, 6) + len(List.__name__)", [[1]], ["7"], "f").accepted
    kept = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n  x: int\n"
    assert judged(kept + "def f(x): return P(x).x", [[1]], [1], "f").accepted
    assert judged(kept + "print(P(3).x)").accepted
    assert judged("def f(s): return pow(s, 2, 5)", [[3]], [4], "f").accepted


def test_an_integer_beyond_every_float_is_wrong_and_ends_nothing():
    assert judged("def f(x): return 10**400", [[1]], [1.5], "f").reason == "wrong output on test 1"


def test_the_last_block_counts():
    wrong, right = "```python\nprint(0)\n```", f"```python\n{ADD}\n```"
    metadata = case("").metadata
    for text, accepted in [
        (f"{wrong}\n{right}", True),
        (f"{right}\n{wrong}", False),
        (f"{right}\nIt prints\n```text\n3\n```", True),
        (f"```cpp\nint main() {{}}\n```\n{right}", True),
        ("```cpp\nint main() {}\n```", False),
        (ADD, True),
        (f"```\n{ADD}", True),
        (f"<think>{right}", False),
    ]:
        assert verify(Case("code", text, "", metadata), SETTINGS).accepted is accepted, text


@pytest.mark.parametrize(
    "tests",
    [
        None,
        "{",
        [],
        {"inputs": ["1"], "outputs": []},
        {"inputs": [], "outputs": []},
        {"inputs": [1], "outputs": ["1"]},
        {"inputs": ["{"], "outputs": ["1"], "fn_name": "f"},
        {"inputs": [["1"]], "outputs": ["1"], "fn_name": "import os"},
    ],
)
def test_tests_that_are_none_break_the_question_and_nothing_else(tests):
    verdict = verify(Case("code", ADD, "", json.dumps({"tests": tests})), SETTINGS)
    assert not verdict.accepted and verdict.kind == "broken question"


def test_tests_may_be_json_in_a_string():
    metadata = json.dumps({"tests": json.dumps({"inputs": ["1 2"], "outputs": ["3"]})})
    assert verify(Case("code", ADD, "", metadata), SETTINGS).accepted


REPLY = '{"status": 0, "stdout": "3", "overflow": false, "result": "3", "error": ""}'
FORGERIES = [
    f"print('''{REPLY}''')",
    f"import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'''{REPLY}\\n''')\n  except OSError: pass",
    "import os\nfor fd in os.listdir(f'/proc/{os.getppid()}/fd'):\n"
    f"  try: open(f'/proc/{{os.getppid()}}/fd/{{fd}}', 'wb').write(b'''{REPLY}\n''')\n  except OSError: pass",
    "import os; os._exit(0)",
    "import sys; sys.exit(0)",
    "import os\nfor fd in range(3, 64):\n  try: os.close(fd)\n  except OSError: pass",
    "import gc\nfound = [o for o in gc.get_objects() if isinstance(o, dict) and 'outputs' in o]\n"
    "print(*(found[0]['outputs'] if found else []))",
    "import sys\nframe = sys._getframe()\nwhile frame:\n  print(frame.f_globals.get('setup'), frame.f_locals.keys())\n"
    "  frame = frame.f_back",
    "import os, glob\nfor p in glob.glob('/proc/*/cmdline') + glob.glob('/box/*') + glob.glob('/tmp/*'):\n"
    "  try: print(open(p).read())\n  except OSError: pass",
    "class Always:\n  def __eq__(self, other): return True\nprint(Always())",
]


@pytest.mark.parametrize("source", FORGERIES, ids=range(len(FORGERIES)))
@pytest.mark.parametrize("sandbox", ["bubblewrap", "unsafe"])
def test_a_verdict_cannot_be_forged(source, sandbox):
    settings = verifying(seconds=5, sandbox=sandbox)
    assert not verify(case(source, ["1 2"], ["57005"]), settings).accepted
    function = source.replace("\n", "\n    ")
    assert not verify(case(f"def f(a):\n    {function}\n    return None", [[1]], [57005], "f"), settings).accepted


def test_many_programs_at_a_time_are_judged_as_one_by_one():
    sources = [ADD, "print(0)", "1/0", "print(3)"] * 30
    verdicts = verify_all([case(s, ["1 2", "3 4"], ["3", "7"]) for s in sources], verifying(parallel=8))
    expected = ["", "wrong output on test 1", "runtime error on test 1", "wrong output on test 2"] * 30
    assert [verdict.reason for verdict in verdicts] == expected


def test_without_bubblewrap_nothing_runs(monkeypatch, tmp_path):
    from bm.errors import UserError

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no bubblewrap.*apt install bubblewrap.*verify\.sandbox=unsafe"):
        judged(ADD)
    assert verify(case(ADD), verifying(sandbox="unsafe")).accepted
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match="bubblewrap fails: setting up uid map: Permission denied"):
        check()
