"""Programs that mean harm, each held to what it did to the machine, and not only to its verdict."""

import os
import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from bm.verify.sandbox import LostError, TimeLimitError, sandbox
from tests.forked import processes
from tests.verify.conftest import BUBBLEWRAP, verifying

LIMITS = {"seconds": 60, "memory_mb": 256, "output_kb": 256, "disk_mb": 8}
MARK = f"bm{os.getpid():x}"
"""The name that every hostile process gives itself, to be found by if it survives."""

pytestmark = BUBBLEWRAP


def run(source: str, kind: str = "bubblewrap", **limits) -> str:
    """What the program said and how it ended, after its sandbox is gone; nothing of it may be left."""
    named = f"import ctypes; ctypes.CDLL(None).prctl(15, {MARK.encode()!r}, 0, 0, 0)\n{source}"
    try:
        with sandbox(named, None, verifying(sandbox=kind, **LIMITS | limits)) as running:
            reply = running.ask({"stdin": ""})
            said = f"{reply['stdout']}{reply['error']} status {reply['status']}{' overflow' * reply['overflow']}"
    except TimeLimitError:
        said = "time limit"
    except LostError:
        said = "lost"
    assert survivors() == []
    return said


def survivors() -> list[int]:
    """Processes of this machine that carry the mark; the killed need a moment to go."""
    for _ in range(100):
        marked = [process for process, name in processes("comm") if name.strip() == MARK]
        if not marked:
            return []
        time.sleep(0.02)
    return marked


def attempt(*lines: str) -> str:
    """A program that says what it managed to do: `did` with the value of the last expression, or why it could not."""
    *before, last = lines
    body = "".join(f"    {line}\n" for line in before)
    return (
        f"try:\n{body}    print('did', {last})\nexcept BaseException as e:\n    print('could not:', type(e).__name__)"
    )


def test_the_mark_finds_a_survivor():
    import subprocess
    import sys

    source = (
        f"import ctypes, time; ctypes.CDLL(None).prctl(15, {MARK.encode()!r}); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        assert survivors() == [process.pid]
        process.kill()
    assert survivors() == []


@pytest.mark.parametrize("kind", ["bubblewrap", "unsafe"])
def test_fork_bombs_do_not_fork(kind):
    bomb = (
        "import os\nn = 0\nfor _ in range(1000):\n  try: os.fork(); n += 1\n  except OSError: pass\nprint('forks', n)"
    )
    assert run(bomb, kind) == "forks 0\n status 0"
    for start in (
        "os.posix_spawn('/bin/sh', ['sh'], {})",
        "os.execv('/bin/sh', ['sh'])",
        "{0: 'a shell'}[os.system('sleep 60 &')]",
    ):
        assert "did" not in run(attempt("import os", start), kind)
    assert "could not" in run(attempt("import subprocess", "subprocess.Popen(['sleep', '60'])"), kind)
    assert "could not" in run(attempt("import multiprocessing as m", "m.Pool(2)"), kind)


@pytest.mark.parametrize("kind", ["bubblewrap", "unsafe"])
def test_a_bomb_of_threads_ends_at_the_memory_limit(kind):
    bomb = (
        "import threading as t, time\nn = 0\ntry:\n  while True:\n"
        "    t.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1\nexcept RuntimeError: print(n < 200)"
    )
    assert run(bomb, kind) == "True\n status 0"


@pytest.mark.parametrize("kind", ["bubblewrap", "unsafe"])
@pytest.mark.parametrize("filters", ["listens=8", "listens=4096"], ids=["counted", "kernel cannot count"])
def test_threads_are_few_however_small_their_stacks(kind, filters, monkeypatch):
    from bm.verify import sandbox as module

    source = module.RUNNER.read_text().replace("listens=8", filters)
    monkeypatch.setattr(module, "_python", lambda: [module._interpreter(), "-I", "-X", "utf8", "-c", source])
    bomb = (
        "import threading as t, time\nt.stack_size(32768)\nmade = 0\nfor _ in range(300):\n"
        "  try: t.Thread(target=time.sleep, args=(60,), daemon=True).start(); made += 1\n"
        "  except RuntimeError: pass\nprint('threads', made)"
    )
    assert run(bomb, kind) == f"threads {63 if filters == 'listens=8' else 0}\n status 0"
    many = "import threading as t\nfor _ in range(300):\n  x = t.Thread(target=int); x.start(); x.join()\nprint('all')"
    if filters == "listens=8":
        assert run(many, kind) == "all\n status 0"


def test_memory_bombs_end_at_the_limit():
    assert "MemoryError" in run("x = []\nwhile True: x.append(bytearray(1 << 20))")
    assert "MemoryError" in run("x = 'a'\nwhile True: x += x")
    assert "did" not in run(attempt("import mmap", "mmap.mmap(-1, 1 << 30)"))
    assert "did" not in run(attempt("import os", "os.memfd_create('x')"))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1 << 21


def test_endless_output_is_cut():
    assert "overflow" in run("while True: print('x' * 1000)")
    assert "overflow" in run("import sys\nwhile True: sys.stderr.write('x' * 1000)")
    stubborn = "import os\nwhile True:\n  try: os.write(1, b'x' * 1000)\n  except OSError: pass"
    assert run(stubborn, seconds=1) == "time limit"


@pytest.mark.parametrize(("kind", "harm"), [("bubblewrap", False), ("unsafe", True)])
def test_files_of_others_are_out_of_sight(kind, harm, tmp_path, monkeypatch):
    """And the test can tell: without the sandbox they are not."""
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("open sesame")
    monkeypatch.setenv("API_KEY", "open sesame")
    assert ("sesame" in run(f"print(open({str(secret)!r}).read())", kind)) is harm
    assert (
        "sesame" in run(f"import os\nos.symlink({str(secret)!r}, 'link'); print(open('link').read())", kind)
    ) is harm
    run(f"open({str(target)!r}, 'w').write('was here')", kind)
    assert target.exists() is harm
    run(f"import os\nos.symlink({str(tmp_path)!r}, 'away'); open('away/other', 'w')", kind)
    assert (tmp_path / "other").exists() is harm
    assert "sesame" not in run("import os\nprint(os.environ)", kind)


def test_the_view_holds_an_interpreter_and_nothing_of_the_user():
    home, here = Path.home(), Path(__file__).resolve()
    for path in (here, home / ".bashrc", "/etc/passwd", "/etc/hostname", "/proc/1/root/etc/passwd", "/tmp", "/var/log"):
        assert "did" not in run(
            attempt("import os", f"os.listdir({str(path)!r}) if os.path.isdir({str(path)!r}) else open({str(path)!r})")
        )
    assert "pytest" not in run("import os, sys\nprint([os.listdir(p) for p in sys.path if 'site-packages' in p])")
    assert run("import os\nprint(os.listdir())") == "[]\n status 0"
    looked = run(
        "import glob\nfor p in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "  try: print(p, open(p, 'rb').read()[:200])\n  except OSError as e: print(p, 'refused')"
    )
    assert str(here.parent) not in looked and "PATH" not in looked and "pytest" not in looked
    assert "did" not in run(attempt("import os", "open(f'/proc/{os.getppid()}/mem', 'r+b')"))
    assert "did" not in run(attempt("import os", "open(f'/proc/{os.getppid()}/fd/61', 'wb')"))


def test_nothing_outside_its_folder_can_be_written():
    for path in ("/x", "/dev/x", "/dev/shm/x", "/usr/lib/x", "/box/../x", os.path.join(os.sys.base_prefix, "x")):
        assert "did" not in run(attempt(f"open({path!r}, 'w')")), path
    assert "did" in run(attempt("open('mine', 'w').write('x')"))
    assert "did" not in run(
        attempt("import os", "os.mount('none', '/box', 'tmpfs')" if hasattr(os, "mount") else "os.chroot('.')")
    )


def test_its_folder_is_small_and_goes_with_it(tmp_path, monkeypatch):
    filled = run(
        "n = 0\ntry:\n  while True:\n    with open(str(n), 'wb') as f: f.write(bytes(200_000))\n    n += 1\n"
        "except OSError as e: print(e.errno, n <= 42)"
    )
    assert filled == "28 True\n status 0"
    assert "did" not in run(
        attempt("f = open('huge', 'wb')", "[f.write(bytes(1 << 16)) for _ in range(100)]", "f.flush()")
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # other tests have sandboxes of their own in /tmp
    assert "did" in run(attempt("open('mine', 'w').write('x')"), "unsafe")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def listeners():
    """A TCP port on loopback and an abstract Unix socket that count who comes by."""
    visits: list[str] = []
    loopback, abstract = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    abstract.bind("")  # the kernel finds a name that is free
    abstract.listen()

    def accept(server: socket.socket, name: str) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return
            visits.append(name)

    for server, name in ((loopback, "loopback"), (abstract, "abstract")):
        threading.Thread(target=accept, args=(server, name), daemon=True).start()
    yield loopback.getsockname()[1], abstract.getsockname(), visits
    for server in (loopback, abstract):
        server.shutdown(socket.SHUT_RDWR)  # wakes its thread
        server.close()


@pytest.mark.parametrize("kind", ["bubblewrap", "unsafe"])
def test_no_socket_reaches_anyone(listeners, kind):
    port, name, visits = listeners
    for family, address in (("AF_INET", ("127.0.0.1", port)), ("AF_INET", ("192.0.2.1", 53)), ("AF_UNIX", name)):
        connect = attempt(
            "import socket", f"s = socket.socket(socket.{family}); s.settimeout(1)", f"s.connect({address!r})"
        )
        assert "could not" in run(connect, kind)
    assert visits == []
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(name)
    socket.create_connection(("127.0.0.1", port)).close()
    for _ in range(100):
        if len(visits) == 2:
            break
        time.sleep(0.02)
    assert sorted(visits) == ["abstract", "loopback"]


def test_no_interface_but_loopback_exists():
    assert run("print([l.split(':')[0].strip() for l in open('/proc/net/dev').readlines()[2:]])") == "['lo']\n status 0"


@pytest.mark.parametrize("kind", ["bubblewrap", "unsafe"])
def test_nobody_can_be_killed(kind):
    for victim in ("os.getppid()", "1", "-1", str(os.getpid())):
        assert "could not" in run(attempt("import os, signal", f"os.kill({victim}, signal.SIGKILL)"), kind)


@pytest.mark.parametrize(
    "source",
    [
        "import time\nwhile True: time.sleep(1000)",
        "import signal, time\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True:\n  try: time.sleep(1000)\n  except BaseException: pass",
        "import os\nfor f in range(1000):\n  try: os.close(f)\n  except OSError: pass\nwhile True: pass",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
        "import atexit, time\natexit.register(time.sleep, 1000)",
    ],
)
@pytest.mark.parametrize("kind", ["bubblewrap", "unsafe"])
def test_whatever_does_not_end_is_ended(source, kind):
    assert run(source, kind, seconds=0.5) == "time limit"


def test_a_daemon_does_not_outlive_its_sandbox():
    daemon = (
        "import os, time\ntry:\n  if os.fork(): os._exit(0)\n  os.setsid()\n  if os.fork(): os._exit(0)\n"
        "except OSError: print('no daemon')\ntime.sleep(1000)"
    )
    assert run(daemon, seconds=1) == "time limit"


def test_even_where_processes_can_be_forked_none_survives(monkeypatch):
    """The process namespace kills by itself, should a machine have no system call filter."""
    from bm.verify import sandbox as module

    weak = module.RUNNER.read_text().replace("            confine(theirs)\n", "")
    assert weak != module.RUNNER.read_text()
    monkeypatch.setattr(module, "_python", lambda: [module._interpreter(), "-I", "-X", "utf8", "-c", weak])
    daemon = "import os, time\nfor _ in range(3):\n  if os.fork() == 0: os.setsid()\nprint('forked')\ntime.sleep(1000)"
    assert run(daemon, seconds=1) == "time limit"
    assert run("import os\nif os.fork(): os._exit(0)\nimport time; time.sleep(1000)", seconds=1).endswith("status 0")


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        "exec('(' * 10**5)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.abort()",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import os; os.setuid(0)",
    ],
)
def test_a_crash_is_its_own_only(source):
    said = run(source)
    assert not said.endswith("status 0")
    assert run("print('next')") == "next\n status 0"
