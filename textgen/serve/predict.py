"""Predictions of models that do not write: labels of texts, forecasts of series."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgen.errors import TextgenError
from textgen.serve.models import Models, Served
from textgen.serve.protocol import RequestError
from textgen.tasks.classification.model import Classifier

LABELING = {"model", "input", "threshold"}
FORECASTING = {"model", "table", "horizon", "level", "seed"}
MOST_INPUTS = 10_000


def prediction(models: Models, body: Mapping[str, Any]) -> dict[str, Any]:
    """The response of /v1/predict. Raises RequestError for a wrong field, and for a model that writes."""
    name = body.get("model")
    if not isinstance(name, str | None):
        raise RequestError("model must be text.", "model")
    served = models.served(name)
    if isinstance(served.model, Classifier):
        known, answer = LABELING, _labels
    elif served.text is None and _is_forecaster(served.model):
        known, answer = FORECASTING, _forecasts
    else:
        raise RequestError(f"the model {served.name!r} does not predict ({served.task}): use /v1/completions.", "model")
    unknown = next((field for field in body if field not in known), None)
    if unknown is not None:
        raise RequestError(f"there is no field {unknown[:80]!r}.", unknown[:80], code="unknown_field")
    try:
        data = answer(served, {field: value for field, value in body.items() if value is not None})
    except RequestError:
        raise
    except TextgenError as error:
        raise RequestError(str(error)) from None
    return {"object": "list", "model": served.name, "data": data}


def _is_forecaster(model: Any) -> bool:
    from textgen.tasks.forecasting.forecaster import ForecastModel  # imports torch, as its models do

    return isinstance(model, ForecastModel)


def _labels(served: Served, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or len(texts) > MOST_INPUTS:
        raise RequestError(f"input must be a text or a list of 1 to {MOST_INPUTS:,} texts.", "input")
    if not all(isinstance(text, str) for text in texts):
        raise RequestError("input must hold texts.", "input")
    return [
        {
            "index": index,
            **({"label": each.label} if each.labels is None else {"labels": each.labels}),
            "probabilities": each.probabilities,
        }
        for index, each in enumerate(served.model.classify(texts, body.get("threshold")))
    ]


def _forecasts(served: Served, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    table = body.get("table")
    if not isinstance(table, str) or not table:
        raise RequestError("table must be the text of a csv table.", "table")
    options = {name: body[name] for name in ("horizon", "level", "seed") if name in body}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_text(table, encoding="utf-8")
        found = served.model.predict(str(path), **options)
    return [each.to_json() for each in found]
