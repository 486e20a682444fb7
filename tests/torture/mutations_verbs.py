"""Faults in how the command stops, speaks, keeps its records and checks its files."""

from __future__ import annotations

from torture.mutate import Mutation

MAIN, SCREEN, STOPPING = "textgen/cli/__init__.py", "textgen/screen.py", "textgen/signals.py"
TRAIN, NEW_RUN, INTEGRITY = "textgen/training/start.py", "textgen/training/runs.py", "textgen/storage/__init__.py"
PROVENANCE = "textgen/training/runs.py"


def tests(name):
    return f"tests/test_robustness.py -k {name}"


MUTATIONS = [
    Mutation(
        "SIGTERM and a closed terminal end the process as they like",
        STOPPING,
        '("SIGINT", "SIGTERM", "SIGHUP")',
        '("SIGINT",)',
        tests("stops_where_it_is"),
    ),
    Mutation(
        "an ignored signal is heard",
        STOPPING,
        "if signal.getsignal(number) != signal.SIG_IGN:",
        "if True:",
        tests("ignored_stays"),
    ),
    Mutation(
        "signal handlers are not given back",
        STOPPING,
        "            signal.signal(number, handled)\n",
        "            pass\n",
        tests("stops_where_it_is"),
    ),
    Mutation(
        "SIGTERM ends with the code of Ctrl-C",
        STOPPING,
        "INTERRUPTED, TERMINATED = 130, 143",
        "INTERRUPTED, TERMINATED = 130, 130",
        tests("stops_where_it_is"),
    ),
    Mutation(
        "a stop under -q is silent",
        "textgen/cli/train.py",
        'if style != "none" or end.reason in ("interrupted", "time"):',
        'if style != "none":',
        tests("even_if_quiet"),
    ),
    Mutation(
        "training ends when nobody listens",
        SCREEN,
        "    with suppress(OSError):\n        show(visible(text))",
        "    show(visible(text))",
        tests("nobody_listens"),
    ),
    Mutation(
        "what cannot be given away at once is dropped",
        SCREEN,
        "                select.select([], [stream], [])",
        "                return",
        tests("must_not_be_waited"),
    ),
    Mutation(
        "control characters reach a terminal",
        SCREEN,
        "        if self._escape is not None:\n",
        "        if False:\n",
        tests("control_characters"),
    ),
    Mutation(
        "joiners inside emoji are escaped",
        "textgen/errors.py",
        "\\u200c\\u200d",
        "\\u200c",
        tests("control_characters"),
    ),
    Mutation(
        "messages carry control characters",
        SCREEN,
        "show(visible(text))",
        "show(text)",
        tests("names_do_not"),
    ),
    Mutation(
        "a full disk under the output has no name",
        SCREEN,
        'raise OSError(error.errno, error.strerror, "standard output") from error',
        "return",
        tests("full_disk_below"),
    ),
    Mutation(
        "Python speaks at the end",
        STOPPING,
        "            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())\n",
        "            pass\n",
        tests("python_itself"),
    ),
    Mutation(
        "a folder that is gone is found out by a library",
        MAIN,
        "        Path.cwd()  # libraries below would end the process\n",
        "        pass\n",
        tests("place_that_is_gone"),
    ),
    Mutation(
        "a run is replaced with whatever it holds",
        NEW_RUN,
        "if foreign := next(_foreign_files(folder), None):",
        "if strange := None:",
        tests("only_what_training_wrote"),
    ),
    Mutation(
        "--output-dir is passed over on --resume",
        TRAIN,
        "if other is not None and Path(other).resolve() != folder.resolve():",
        "if False:",
        tests("stays_where_it_is"),
    ),
    Mutation(
        "the cell's package is not recorded",
        PROVENANCE,
        "versions(options.threads or 1, owners)",
        "versions(options.threads or 1)",
        tests("another_version"),
    ),
    Mutation(
        "other tokens under the same name are taken",
        TRAIN,
        '    refuse_other_data(arguments.get("digests", {}), data.digests())\n',
        "",
        tests("gives_other_tokens"),
    ),
    Mutation(
        "verify stops at the first damaged file",
        INTEGRITY,
        "            found.damaged.append(str(error))\n",
        "            found.damaged.append(str(error))\n            return found\n",
        tests("every_damaged"),
    ),
    Mutation(
        "verify passes checkpoints over",
        INTEGRITY,
        "    for checkpoint in checkpoints(run):\n",
        "    for checkpoint in ():\n",
        tests("every_damaged"),
    ),
    Mutation(
        "verify passes tokens over", INTEGRITY, "    if store is not None:\n", "    if False:\n", tests("every_damaged")
    ),
    Mutation(
        "a report shows every value",
        "textgen/cli/env.py",
        'value if name in SHOWN or name.startswith("OMP_") else "(set)"',
        "value",
        tests("no_secret"),
    ),
]
