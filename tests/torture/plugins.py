"""Bad plugins: whatever one does, the others, the built-in cells and the command work on, and it is named in a line."""

# ruff: noqa: E501

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .isolation import quick_folder
from .rows import Outcome, Row

CELL = '''"""A cell that forgets slowly."""
import os, signal, sys, time
import torch
import textgen

class Leaky(textgen.Cell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.input = torch.nn.Linear(input_size, hidden_size)

    def step(self, x, state):
        h = torch.lerp(state[0], torch.tanh(self.input(x)), 0.5)
        return h, (h,)

@textgen.hookimpl
def register_cells(register):
    register("{name}", Leaky)
'''
STEP = """        h = torch.lerp(state[0], torch.tanh(self.input(x)), 0.5)
        return h, (h,)
"""


@dataclass(frozen=True)
class Bad:
    """A plugin: its module, what `plugins` has to say of it, and where that shows: when it is listed, or when its cell
    is held to the laws of cells."""

    source: str
    said: str
    found_by: str = "list"
    cells: tuple[str, ...] = ()


def importing(code: str) -> str:
    return CELL.replace("import textgen\n", f"import textgen\n{code}\n")


def stepping(code: str) -> str:
    return CELL.replace(STEP, code)


BAD = {
    "import-error": Bad("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    "exits": Bad("raise SystemExit(3)", "it exits with 3"),
    "interrupts": Bad("raise KeyboardInterrupt", "signal SIGINT"),
    "dies": Bad("import os; os._exit(7)", "it ends the process (exit code 7)"),
    "crashes": Bad("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it ends the process (signal SIGSEGV)"),
    "sleeps": Bad(importing("time.sleep(11)"), "s to import"),
    "prints": Bad(importing("print('{\"problem\": null}' * 3); os.write(1, b'{\"problem\": \"forged\"}\\n')"), "", "works"),
    "default-dtype": Bad(importing("torch.set_default_dtype(torch.float64)"), "changes the default dtype"),
    "threads": Bad(importing("torch.set_num_threads(1 + torch.get_num_threads())"), "changes the number of threads"),
    "seed": Bad(importing("torch.manual_seed(7)"), "changes the random numbers of torch"),
    "handlers": Bad(importing("signal.signal(signal.SIGTERM, signal.SIG_IGN)"), "changes the signal handlers"),
    "misspelt-hook": Bad(CELL.replace("def register_cells", "def register_cell"), "unknown hook 'register_cell'"),
    "wrong-signature": Bad(CELL.replace("register_cells(register)", "register_cells(give)"), "give"),
    "same-name-a": Bad(CELL.replace("{name}", "shared"), "the name 'shared' is taken by", cells=("shared",)),
    "same-name-b": Bad(CELL.replace("{name}", "shared"), "the name 'shared' is taken by", cells=("shared",)),
    "impostor": Bad(CELL.replace("{name}", "lstm"), "the name 'lstm' is taken by textgen-lm", cells=("lstm",)),
    "old-api": Bad(CELL.replace("import textgen\n", "import textgen\nfrom textgen.cells import RecurrentCell\n"), "RecurrentCell"),
    "not-a-number": Bad(stepping("        h = self.input(x) / 0\n        return h, (h,)\n"), "finite", "check"),
    "in-place": Bad(stepping("        h = state[0].mul_(0.5).add_(self.input(x))\n        return h, (h,)\n"), "", "check"),
    "state-of-a-list": Bad(stepping("        h = torch.tanh(self.input(x))\n        return h, [h.tolist()]\n"), "", "check"),
    "growing-state": Bad(stepping("        h = torch.tanh(self.input(x))\n        return h, (torch.cat([state[0], h], 1),)\n"), "", "check"),
}  # fmt: skip
FINE = {"elman", "gru", "lstm", "rnn", "fine"}


class Site:
    """Throw-away packages in a folder on Python's path, and the command run beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[str] = []
        (folder / "site").mkdir()

    def install(self, name: str, source: str, cells: tuple[str, ...] = ()) -> None:
        module = f"textgen_bad_{name.replace('-', '_')}"
        info = self.folder / "site" / f"textgen_{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (self.folder / "site" / f"{module}.py").write_text(source.replace("{name}", name))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: textgen-{name}\nVersion: 1.0\n")
        points = "".join(f"{cell} = {module}\n" for cell in cells or (name,))
        (info / "entry_points.txt").write_text(f"[textgen]\n{points}")
        self._made.append(f"textgen-{name}")

    def command(self, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `textgen ARGUMENTS` as a shell would."""
        paths = [str(self.folder / "site"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "300",
                       "TEXTGEN_LOAD_PLUGINS": ",".join(self._made)}  # fmt: skip
        return subprocess.run([sys.executable, "-m", "textgen", *arguments], capture_output=True, text=True, check=False,
                              cwd=self.folder, env=environment, timeout=seconds)  # fmt: skip


def listed(site: Site) -> dict[str, dict[str, str]]:
    """What `textgen plugins` says of each package; that it ends well, in one line each, is part of it."""
    done = site.command("plugins", "--json")
    assert done.returncode == 0, done.stderr[-500:]
    rows = json.loads(done.stdout)
    assert all("\n" not in row["reason"] for row in rows)
    return {f"{row['package'].split()[0]}/{row['name']}": row for row in rows}


def run(seed: int) -> Outcome:
    """All bad plugins installed at once, beside a good one."""
    began, wrong = time.monotonic(), []
    with quick_folder() as folder:
        site = Site(folder)
        for name, bad in BAD.items():
            site.install(name, bad.source, bad.cells)
        site.install("fine", CELL)
        rows = listed(site)
        for name, bad in BAD.items():
            row = rows[f"textgen-{name}/{(bad.cells or (name,))[0]}"]
            failed = bad.found_by == "list"
            if (row["status"] == "failed") != failed or (failed and bad.said not in row["reason"]):
                wrong.append(f"{name}: {row['status']} {row['reason'][:150]}")
        good = {row["name"] for row in rows.values() if row["status"] == "ok"}
        wrong += [f"{cell}: {[row['reason'] for row in rows.values() if row['name'] == cell]}" for cell in FINE - good]
        wrong += others_work(site)
        wrong += caught_by_laws(site)
    figure = f"{len(BAD)} bad plugins named in {time.monotonic() - began:.0f} s, the command and {len(FINE)} cells work"
    return Outcome("; ".join(wrong) or figure, not wrong)


def others_work(site: Site) -> list[str]:
    """What does not work beside them, of all that has to."""
    (site.folder / "notes.txt").write_text("A small fox sat on a large stone and looked at the sea.\n" * 40)
    tiny = ["--hidden-size", "4", "--max-steps", "2", "--batch-size", "2", "--seq-length", "8", "--threads", "1"]
    commands = [["--help"], ["cells"], ["cells", "show", "lstm"], ["cells", "show", "fine"],
                *[["train", "notes.txt", "--cell", cell, *tiny] for cell in ("lstm", "fine")], ["sample", "-n", "5"]]  # fmt: skip
    return [
        f"{' '.join(given)}: {done.stderr[-200:]}" for given in commands if (done := site.command(*given)).returncode
    ]


def caught_by_laws(site: Site) -> list[str]:
    """The plugins that are broken in what they compute and yet pass `textgen plugins check`."""
    names = [name for name, bad in BAD.items() if bad.found_by == "check"]
    done = site.command("plugins", "check", *names, "--json")
    reports = {report["cell"]: report for report in json.loads(done.stdout)}
    broken = {name for name, report in reports.items() if any(law["status"] == "failed" for law in report["laws"])}
    return [f"{name}: passes every law" for name in names if name not in broken]


ROWS = [Row("R19", "bad plugins", "16 kinds, each named in a line; the rest works", run, "ci")]


if __name__ == "__main__":
    print(partial(run, 1)())
