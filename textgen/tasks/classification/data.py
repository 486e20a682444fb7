"""What a classifier is trained on.

Texts of similar length are read side by side. Those of more than `seq_length` tokens are read in several steps, with
the state carried; each of these steps predicts the label from all that was read by then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.formatting import plural, short
from textgen.model import ModelConfig
from textgen.tasks.classification.ngrams import NGRAMS
from textgen.tasks.classification.options import ClassificationOptions
from textgen.tasks.classification.reading import LABELS, LabelledCorpus
from textgen.tasks.data import ExampleStore, TextExampleData, listed

if TYPE_CHECKING:
    from textgen.tasks.classification.objective import ClassificationObjective

LEARNING_RATE = 2e-3
MEMBERS = 4
"""Members of a new model."""


@dataclass(frozen=True)
class ClassificationData(TextExampleData):
    """Labelled texts: the training part and the held-out part."""

    kind, arrays, optional = "labelled texts", ("ends", "ids", "labels"), ("scores",)
    defaults: ClassVar = {"hidden_size": 64, "embedding_size": 64, "dropout": 0.5}
    facts_file, pipeline = LABELS, "text-classification"
    most_epochs = 8.0

    store: ExampleStore
    pooling: str = ClassificationOptions.pooling
    separator: str | None = None
    """What stands between several labels in a cell of a table."""

    @classmethod
    def prepare(cls, paths: list[str], options: ClassificationOptions, cache: Path, progress: Progress) -> Self:
        """Read and encode labelled texts, or open the stored ones. Raises TextgenError naming row and column."""
        corpus = LabelledCorpus.read(paths, options, progress)
        data = cls.cached(cache, corpus.depends, lambda: corpus.encode(progress))
        return replace(data, pooling=options.pooling, separator=options.label_separator)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, by index."""
        return tuple(self.store.about["labels"])

    def scores(self, part: str) -> npt.NDArray[np.float32] | None:
        """The scores of the linear model for the texts of a part, (N, C); None without one."""
        return self.store.parts[part].get("scores")

    def files(self) -> dict[str, bytes]:
        has = NGRAMS in self.store.about["files"]
        ngrams = {NGRAMS: storage.verified(self.folder, NGRAMS, self.store.about)} if has else {}
        return {**super().files(), **ngrams}

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return bool(self.store.about.get("several"))

    @property
    def outputs(self) -> int:
        return len(self.labels)

    @property
    def facts(self) -> dict[str, Any]:
        facts = {"labels": list(self.labels), "pooling": self.pooling}
        return {**facts, "multi_label": True, "label_separator": self.separator} if self.several else facts

    @property
    def model_name(self) -> str:
        return f"A recurrent classifier of texts ({listed(self.labels)})"

    def described(self) -> list[str]:
        labels = np.concatenate([self.store.parts[part]["labels"] for part in (TRAIN, VALIDATION)])
        counts = labels.sum(axis=0) if self.several else np.bincount(labels, minlength=len(self.labels))
        shown = ", ".join(f"{label!r} {number:,}" for label, number in zip(self.labels[:6], counts, strict=False))
        texts, *rest = super().described()
        more = ", ..." if len(self.labels) > 6 else ""
        several = ", several per text" if self.several else ""
        names = f"{plural(len(self.labels), 'label')}{several}: {shown}{more}"
        return [f"{short(self.store.about['bytes'])}B", texts, names, *rest]

    def with_defaults(self, options: ClassificationOptions) -> ClassificationOptions:
        rate = LEARNING_RATE / 2 if options.init_from is not None else LEARNING_RATE
        filled: ClassificationOptions = super().with_defaults(options)
        members = options.ensemble or (1 if options.init_from is not None else MEMBERS)
        return replace(filled, learning_rate=options.learning_rate or rate, ensemble=members)

    def config(self, options: ClassificationOptions, hidden_size: int) -> ModelConfig:
        return replace(super().config(options, hidden_size), members=options.ensemble or 1)

    def objective(self, options: ClassificationOptions) -> ClassificationObjective:
        from textgen.tasks.classification.objective import ClassificationObjective, MultiLabelObjective, Scores

        kind = MultiLabelObjective if self.several else ClassificationObjective
        train, held_out = self.labelled(TRAIN), self.labelled(VALIDATION)
        scores = Scores.of((self.scores(TRAIN), train.labels), (self.scores(VALIDATION), held_out.labels))
        return kind.of(train, held_out, self.labels, self.tokenizer, options, scores)
