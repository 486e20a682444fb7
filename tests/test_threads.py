"""Laws of threads: a few rows take one BLAS thread, from whichever Python thread, and afterwards all is as before."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl
import torch
from zoo import CELLS

from textgen import threads
from textgen.data.tokenizers import CharTokenizer
from textgen.generation import SampleOptions
from textgen.generation.generate import EXACT_ROWS, complete
from textgen.generation.language_model import LanguageModel
from textgen.model import ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import TorchStepper, model_tensors
from textgen.runtime import NumpyStepper
from textgen.runtime.plan import Execution
from textgen.tracing import trace

CHARACTERS = CharTokenizer("abcdefgh")
CONFIG = ModelConfig(CHARACTERS.vocab_size, cell="gru", embedding_size=6, hidden_size=8)


def blas_threads():
    """How many threads each matrix library that numpy uses would take here."""
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def several_threads():
    """Three threads for every library, set by a thread that lives on: threadpoolctl lets no other thread set them."""
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        if not blas_threads() or max(blas_threads()) == 1:
            pytest.skip("this numpy has no matrix library with threads")
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(CONFIG, CELLS["gru"]).eval()


@pytest.fixture(params=["numpy", "torch"])
def seen(request, model, monkeypatch):
    """A language model, and how many threads its steps have seen."""
    seen = []
    if request.param == "torch":
        stepper = TorchStepper(model)
        step = model.step

        def spied(*given):
            seen.append(torch.get_num_threads())
            return step(*given)

        monkeypatch.setattr(model, "step", spied)
    else:
        stepper = numpy_stepper(model)
        run = Execution.run

        def watched(self, rows, values):
            if rows and self is stepper._step:
                seen.extend(blas_threads())
            return run(self, rows, values)

        monkeypatch.setattr(Execution, "run", watched)
    return LanguageModel(CONFIG, CHARACTERS, stepper, unsampled=CHARACTERS.unsampled), seen


def numpy_stepper(model):
    return NumpyStepper(trace(model), {name: tensor.detach().numpy() for name, tensor in model_tensors(model).items()})


def generated(model, rows, seed=0):
    return [c.text for c in complete(model, ["a"] * rows, SampleOptions(max_new_tokens=5, seed=seed, ignore_eos=True))]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_few_rows_take_one_thread_from_every_python_thread(seen, workers):
    model, found = seen
    alone = [generated(model, 1, seed) for seed in range(8)]
    assert set(found) == {1}, "on the main thread"
    found.clear()
    with ThreadPoolExecutor(workers) as pool:
        assert list(pool.map(lambda seed: generated(model, 1, seed), range(8))) == alone
    assert set(found) == {1}
    assert set(blas_threads()) == {3} and torch.get_num_threads() == 3


def test_many_rows_take_all_threads(seen):
    model, found = seen
    generated(model, EXACT_ROWS + 1)
    assert set(found) == {3}


def test_overlapping_blocks_of_both_kinds_keep_one_thread_until_the_last_ends():
    first, second = threads.few_rows(1), threads.one_thread()
    began, go_on, numbers = threading.Event(), threading.Event(), []

    def other():
        with second:
            began.set()
            go_on.wait()
            numbers.extend([*blas_threads(), torch.get_num_threads()])

    worker = threading.Thread(target=other)
    with first:
        worker.start()
        began.wait()
        assert set(blas_threads()) == {1} and torch.get_num_threads() == 3
    go_on.set()
    worker.join()
    assert set(numbers) == {1} and set(blas_threads()) == {3}


def test_blocks_in_blocks_and_errors_give_back_what_was():
    with pytest.raises(KeyError), threads.one_thread(), threads.few_rows(1), threads.one_thread():
        assert set(blas_threads()) == {1} and torch.get_num_threads() == 1
        raise KeyError
    assert set(blas_threads()) == {3} and torch.get_num_threads() == 3


def test_what_is_chosen_holds_from_every_thread(monkeypatch):
    monkeypatch.setattr(threads._Chosen, "threads", 0)
    worker = threading.Thread(target=threads.use_threads, args=(2,))
    worker.start()
    worker.join()
    assert set(blas_threads()) == {2} and threads.chosen() == 2
    with threads.few_rows(1):
        assert set(blas_threads()) == {2}
    threads._set([(library, 3) for library in threads._matrix_libraries()])


class Fake:
    """A library whose number of threads is that of each Python thread, as with OpenMP."""

    internal_api, threading_layer = "openblas", "openmp"

    class dynlib:
        pass

    def __init__(self):
        self.own = threading.local()

    def get_num_threads(self):
        return getattr(self.own, "threads", 4)

    def set_num_threads(self, threads):
        self.own.threads = threads


def test_a_library_that_counts_each_python_thread_is_set_in_each(monkeypatch):
    library = threads._Library(Fake())
    monkeypatch.setattr(threads, "_matrix_libraries", lambda: [library])
    inside = []

    def work(barrier):
        with threads.few_rows(1):
            barrier.wait()
            inside.append(library.get())
        assert library.get() == 4

    barrier = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, [barrier] * 3))
    assert inside == [1, 1, 1] and library.get() == 4 and np.all(library.each_thread)
