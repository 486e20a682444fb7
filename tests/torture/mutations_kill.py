"""Faults in what keeps a run through kills, power cuts, full disks, bit rot, signals, clocks and nonsense."""

# ruff: noqa: E501

from __future__ import annotations

from torture.mutate import Mutation

SEALED = "textgen/storage/__init__.py"
FILES, CHECKPOINT = "textgen/storage/filesystem.py", "textgen/training/runs.py"
TRAINER, SOUNDNESS, TRAIN = "textgen/training/trainer.py", "textgen/training/guards.py", "textgen/training/start.py"
UPDATE = "textgen/training/optimization.py"
STOPPING = "textgen/signals.py"
KILLS, CALLS, POWER, REFUSALS, BITS = "R1 --share 0.05", "R2 --share 0.1", "R3", "R4 --share 0.3", "R5 --share 0.4"
SIGNALS, NUMBERS, LIMITS, TWICE = "R6 --share 0.4", "R8 --share 0.3", "R9 --share 0.4", "R21 --share 0.3"

MUTATIONS = [
    Mutation("the carried state is not saved", CHECKPOINT,
             'hidden = {f"hidden/{k}": tensor for k, tensor in enumerate(checkpoint.hidden)}', "hidden = {}", KILLS),
    Mutation("the optimizer's state is not taken up again", TRAINER,
             'load_optimizer_state(self.model, self.update.optimizer, checkpoint.optimizer, f"{folder}/{OPTIMIZER}")',
             "pass", KILLS),
    Mutation("the counters begin anew", TRAINER, "self.progress = Counters(**known)",
             'self.progress = Counters(step=known["step"])', KILLS),
    Mutation("dropout depends on the process", UPDATE, "dropout = self.rates.window(options.seed, step,",
             "dropout = self.rates.window(time.monotonic_ns(), step,", KILLS),
    Mutation("a checkpoint is filled in place", FILES,
             'temporary = target.with_name(f".{target.name}{_TEMPORARY}{secrets.token_hex(4)}")\n    with naming',
             "temporary = target\n    with naming", CALLS),
    Mutation("the oldest checkpoints go before the new one is there", CHECKPOINT,
             "        with filesystem.new_folder(folder) as new:\n            new.write(WEIGHTS, pack(checkpoint.weights))",
             "        for step in self.checkpoints():\n"
             '            filesystem.remove_folder(self.folder / f"checkpoint-{step}")\n'
             "        with filesystem.new_folder(folder) as new:\n            new.write(WEIGHTS, pack(checkpoint.weights))",
             CALLS),
    Mutation("what a kill left behind is not tidied", FILES, 'for left in folder.glob(f".*{_TEMPORARY}*"):',
             "for left in ():", "tests/test_files.py -k cleaning"),
    Mutation("a folder's names are not synced after the rename", FILES,
             "    with naming(target):\n        system.sync_folder(target.parent)", "    pass", POWER),
    Mutation("files are not synced before the rename", FILES,
             "            system.fsync(self._handle)\n", "", POWER),
    Mutation("the names in a new folder are not synced", FILES,
             "        with naming(self._target):\n            system.sync_folder(self._temporary)", "        pass", POWER),
    Mutation("a replaced file is not synced by name", FILES,
             "    with naming(path):\n        system.sync_folder(path.parent)\n    return entry", "    return entry", POWER),
    Mutation("metrics are not durable with their checkpoint", CHECKPOINT,
             'filesystem.append(self.folder / METRICS, b"", durable=True)', "pass", POWER),
    Mutation("files go before their folder is out of sight", FILES,
             "        system.rename(folder, hidden)\n        system.sync_folder(folder.parent)\n        _remove_all(hidden)",
             "        _remove_all(folder)", "tests/test_files.py -k removed_in_one_step"),
    Mutation("a replaced file's old digest is not allowed for a while", FILES,
             'manifest["files"][name] = {**new, "before": allowed_entries(folder, name, manifest)}',
             'manifest["files"][name] = new', POWER),
    Mutation("a short write is taken for a whole one", FILES, "            view = view[written:]", "            break", REFUSALS),
    Mutation("an error of the disk does not name the file", FILES,
             "raise OSError(error.errno, reason, str(path)) from error", "raise", REFUSALS),
    Mutation("a full disk does not say how much is missing", FILES, "if missing and error.errno in FULL:",
             "if False:", "R4"),
    Mutation("an error while syncing is ignored", FILES,
             "            system.fsync(self._handle)\n",
             "            with suppress(OSError):\n                system.fsync(self._handle)\n", "R4"),
    Mutation("digests are not compared", SEALED,
             "    if any(size == entry[\"size\"] and sha256 == entry[\"sha256\"] for entry in allowed):",
             "    if any(size == entry[\"size\"] for entry in allowed):", BITS),
    Mutation("a manifest's own digest is not compared", SEALED, "    if seal != _digest(manifest):", "    if False:", BITS),
    Mutation("tokens are mapped unchecked", "textgen/data/store.py",
             "        storage.check_file(folder, name, manifest)", "        pass", BITS),
    Mutation("SIGTERM is not taken in hand", "textgen/signals.py", 'for name in ("SIGINT", "SIGTERM", "SIGHUP") if',
             'for name in ("SIGINT",) if', SIGNALS),
    Mutation("a stopped run is not saved", TRAINER,
             "if reason or saves:",
             "if saves:", SIGNALS),
    Mutation("a stop waits for the next checkpoint", TRAINER, "            reason = self._reason_to_end(",
             "            reason = \"\" if progress.step % save_steps else self._reason_to_end(", SIGNALS),
    Mutation("a second SIGINT is not heard", STOPPING, "        if received and number == signal.SIGINT:",
             "        if received and number == 0:", SIGNALS),
    Mutation("--max-time asks the clock of the day", TRAINER, "        seconds, limit = time.monotonic() - self._began, self.options.max_time",
             '        seconds, limit = time.time() - self.__dict__.setdefault("born", time.time()), self.options.max_time', "R7"),
    Mutation("the newest checkpoint is the one written last", SEALED,
             "    return sorted(found, key=lambda path: int(path.name[11:]))",
             "    return sorted(found, key=lambda path: path.stat().st_mtime)", "R7"),
    Mutation("speed is divided by a clock that may stand still", TRAINER, "busy_steps / max(busy, 1e-9)",
             "busy_steps / busy", "R7"),
    Mutation("nonsense is noticed after the update", UPDATE,
             "        if fault := guards.not_finite(self.model, loss, norm):\n"
             "            raise NotFiniteError(fault)\n",
             "", NUMBERS),
    Mutation("gradients are not looked at", SOUNDNESS,
             "    if math.isfinite(loss.item()) and math.isfinite(norm.item()):\n",
             "    if math.isfinite(loss.item()):\n", NUMBERS),
    Mutation("infinite weights are stored", SOUNDNESS,
             "    return next((name for name, p in model.named_parameters() if not p.isfinite().all()), \"\")",
             '    return ""', "tests/test_soundness.py"),
    Mutation("the last finite loss is forgotten", UPDATE, "        self.finite_loss = loss.item()\n", "", NUMBERS),
    Mutation("an out-of-memory error has no sentence of its own", SOUNDNESS,
             "        if not out_of_memory(error):", "        if out_of_memory(error):",
             LIMITS),
    Mutation("the disk's room is not looked at", SOUNDNESS, "    if free < needed:", "    if False:", LIMITS),
    Mutation("a damaged checkpoint ends the run", CHECKPOINT,
             "            except TextgenError as error:\n                wrong.append(error)",
             "            except KeyError as error:\n                wrong.append(error)", LIMITS),
    Mutation("one checkpoint is kept", CHECKPOINT, "for step in self.checkpoints()[:-keep]:",
             "for step in self.checkpoints()[:-1]:", LIMITS),
    Mutation("weights are drawn without the seed", TRAIN,
             '    torch.manual_seed(keyed_seed(options.seed, "weights"))\n', "    torch.seed()\n", TWICE),
]  # fmt: skip
