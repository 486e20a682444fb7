"""Laws of options, over every one that is declared: exact about types and limits, and errors say what is allowed."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgen.data import CorpusOptions, check_reading
from textgen.errors import TextgenError, UsageError
from textgen.generation import SampleOptions, check_sampling
from textgen.model import LARGEST, ModelConfig
from textgen.options import (
    Declaration,
    allowed,
    as_flags,
    changed,
    check,
    check_value,
    declared,
    default,
    flag,
    from_mapping,
    option,
    spelled_as,
    value_type,
)
from textgen.storage import FORMAT_VERSION
from textgen.tasks import TrainOptions, built_in_tasks, options_for
from textgen.tasks.language.options import LanguageOptions
from textgen.training import check_training

CLASSES = [CorpusOptions, TrainOptions, SampleOptions, *(task.options for task in built_in_tasks())]
ALL = [
    pytest.param(options, field, declaration, *value_type(options, field.name), id=f"{options.__name__}.{field.name}")
    for options in CLASSES
    for field, declaration in declared(options)
]
every_option = pytest.mark.parametrize(("options", "field", "declaration", "kind", "optional"), ALL)
WRONG = {
    int: [2.7, 3.0, True, math.nan, math.inf, "3", [3], b"3", 10**400, -(10**400)],
    float: [True, math.nan, math.inf, -math.inf, "3", [0.5], 10**400],
    bool: [0, 1, 1.0, "true"],
    str: [3, True, b"text", ["text"]],
    list: ["text", 3, True, {}],
    dict: ["text", 3, True, []],
}


# --- every declared option ---


@pytest.mark.parametrize("options", CLASSES)
def test_every_field_is_declared_and_every_default_allowed(options):
    assert [field for field, _ in declared(options)] == list(fields(options))
    check(options())
    assert from_mapping(options, {}) == options() and changed(options()) == {}


@every_option
def test_every_option_has_help_and_numbers_have_limits(options, field, declaration, kind, optional):
    assert declaration.help.endswith(".") and declaration.help == " ".join(declaration.help.split())
    assert declaration.help[0].isupper() or declaration.help.startswith("cpu")
    if kind in (int, float):
        assert (declaration.low is None) != (declaration.above is None) and declaration.high is not None
    if kind is str:
        assert declaration.choices or declaration.metavar
    assert default(field) is None if optional else type(default(field)) is kind
    assert all(spelling.startswith("-") for spelling in declaration.also)


@pytest.mark.parametrize("options", CLASSES)
def test_no_two_options_share_a_spelling(options):
    spellings = [s for field, declaration in declared(options) for s in (flag(field.name), *declaration.also)]
    assert len(spellings) == len(set(spellings))


@every_option
def test_another_type_is_refused_in_a_sentence_that_shows_it(options, field, declaration, kind, optional):
    for wrong in [*WRONG[kind], *([] if optional else [None])]:
        with pytest.raises(UsageError) as caught:
            check(options(**{field.name: wrong}))
        assert str(caught.value) == f"{field.name} must be {allowed(kind, declaration)}, not {wrong!r}."
        with pytest.raises(UsageError):
            from_mapping(options, {field.name: wrong})


@pytest.mark.parametrize(
    ("options", "field", "declaration", "kind"),
    [pytest.param(*case.values[:4], id=case.id) for case in ALL if case.values[3] in (int, float)],
)
def test_limits_are_where_they_are_declared(options, field, declaration, kind):
    def beyond(limit, direction):
        return limit + direction if kind is int else math.nextafter(limit, direction * math.inf)

    low, high, above = declaration.low, declaration.high, declaration.above
    inside = [high, beyond(high, -1), low if above is None else beyond(above, 1)]
    outside = [beyond(high, 1), beyond(low, -1) if above is None else above]
    for value in inside:
        assert getattr(from_mapping(options, {field.name: value}), field.name) == value
    for value in outside:
        with pytest.raises(UsageError, match=f"^{field.name} must be .* not .*\\.$"):
            from_mapping(options, {field.name: value})


@every_option
def test_a_slip_in_a_name_is_answered_with_a_name_that_exists(options, field, declaration, kind, optional):
    slip = field.name[:-2] + field.name[-1] + field.name[-2] + "s"
    with pytest.raises(UsageError) as caught:
        from_mapping(options, {slip: default(field)})
    beginning, end = f"there is no option {slip!r}. Did you mean '", "'?"
    assert str(caught.value).startswith(beginning) and str(caught.value).endswith(end)
    assert str(caught.value)[len(beginning) : -len(end)] in {f.name for f in fields(options)}


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(UsageError) as caught:
        from_mapping(SampleOptions, {"zzz": 1})
    assert str(caught.value) == "there is no option 'zzz'." and caught.value.exit_code == 2


def test_a_wrong_choice_is_answered_with_the_choices_and_the_nearest():
    with pytest.raises(UsageError) as caught:
        options_for({"lr_scheduler": "cosin"})
    allowed = "cosine, constant or plateau"
    assert str(caught.value) == f"lr_scheduler must be {allowed}, not 'cosin'. Did you mean 'cosine'?"


# --- values there and back ---


def values(declaration, kind, optional):
    """What a field may hold, as a strategy."""
    if kind is int:
        allowed_values = st.integers(declaration.low, declaration.high)
    elif kind is float:
        low, above = declaration.low, declaration.above
        least = low if above is None else above
        allowed_values = st.floats(least, declaration.high, exclude_min=above is not None)
    elif kind is str:
        allowed_values = st.sampled_from(declaration.choices) if declaration.choices else st.text(max_size=5)
    else:
        plain = {bool: st.booleans(), list: st.lists(st.text(min_size=1, max_size=3), max_size=3)}
        allowed_values = plain.get(kind, st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
    return st.none() | allowed_values if optional else allowed_values


def mappings(options):
    named = {
        field.name: values(declaration, *value_type(options, field.name)) for field, declaration in declared(options)
    }
    return st.fixed_dictionaries({}, optional=named)


@pytest.mark.parametrize("options", CLASSES)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_options_survive_a_file_and_what_was_changed_is_enough(options, data):
    chosen = data.draw(mappings(options))
    made = from_mapping(options, chosen)
    assert {name: getattr(made, name) for name in chosen} == chosen
    assert from_mapping(options, json.loads(json.dumps(asdict(made)))) == made
    assert from_mapping(options, changed(made)) == made
    assert all(getattr(options(), name) != value for name, value in changed(made).items())


def test_several_values_may_come_in_any_order_that_is_kept():
    assert from_mapping(SampleOptions, {"stop": ("b", "a")}).stop == ["b", "a"]


def test_a_default_is_not_shared_and_not_lost():
    @dataclass
    class Two:
        names: list[str] = option(["a"], "Names.")  # noqa: RUF009
        table: dict[str, int] = option({"b": 1}, "A table.")  # noqa: RUF009

    first, second = Two(), Two()
    first.names.append("c")
    first.table["d"] = 2
    assert (second.names, second.table) == (["a"], {"b": 1})
    assert [default(field) for field in fields(Two)] == [["a"], {"b": 1}]
    assert SampleOptions().stop is not SampleOptions().stop


@pytest.mark.parametrize(
    ("kind", "limits", "words"),
    [
        (int, {"low": 1, "high": 65_536}, "a whole number from 1 to 65,536"),
        (int, {"low": 1}, "a whole number of at least 1"),
        (int, {"high": 9}, "a whole number of at most 9"),
        (float, {"above": 0, "high": 1}, "a number above 0 and at most 1"),
        (float, {"above": 0}, "a number above 0"),
        (float, {"low": 0, "high": 0.95}, "a number from 0 to 0.95"),
        (float, {}, "a number"),
        (str, {}, "text"),
        (bool, {}, "true or false"),
        (list, {}, "a list"),
        (dict, {}, "a table"),
        (str, {"choices": ("a",)}, "a"),
        (str, {"choices": ("a", "b")}, "a or b"),
        (str, {"choices": ("a", "b", "c")}, "a, b or c"),
    ],
)
def test_what_is_allowed_in_words(kind, limits, words):
    assert allowed(kind, Declaration("Help.", **limits)) == words


def test_a_whole_number_may_stand_for_a_number():
    value = check_value("--rate", 1, float, Declaration("Help.", low=0, high=2))
    assert value == 1 and type(value) is float


@pytest.mark.parametrize(
    ("refuse", "options", "sentence"),
    [
        (
            check_training,
            {"minutes": 1.0, "epochs": 2.0},
            "--minutes and --epochs exclude each other; give one of them.",
        ),
        (
            check_training,
            {"max_steps": 3, "epochs": 2.0},
            "--epochs and --max-steps exclude each other; give one of them.",
        ),
        (
            check_reading,
            {"vocab_size": 300, "tokenizer": "byte"},
            "--vocab-size goes with --tokenizer .*, not with byte.",
        ),
        (
            check_training,
            {"vocab_size": 300, "tokenizer": "char"},
            "--vocab-size goes with --tokenizer .*, not with char.",
        ),
        (check_reading, {"vocab_size": 2}, "--vocab-size must be a whole number from 260 to 1,000,000, not 2."),
        (check_sampling, {"greedy": True, "temperature": 1.0}, "--greedy and --temperature 1 exclude each other."),
    ],
)
def test_options_that_exclude_each_other(refuse, options, sentence):
    made = {check_reading: CorpusOptions, check_training: LanguageOptions, check_sampling: SampleOptions}[refuse](
        **options
    )
    with spelled_as(as_flags), pytest.raises(UsageError) as caught:
        refuse(made)
    assert re.fullmatch(sentence, str(caught.value))
    with pytest.raises(UsageError) as caught:
        refuse(made)
    assert "--" not in str(caught.value) and any(name in str(caught.value) for name in options)


@every_option
def test_the_command_line_spells_a_parameter_as_a_flag(options, field, declaration, kind, optional):
    wrong = WRONG[kind][0]
    with pytest.raises(UsageError) as caught, spelled_as(as_flags):
        check(options(**{field.name: wrong}))
    spelled = "-o" if field.name == "cell_options" else flag(field.name)
    assert str(caught.value) == f"{spelled} must be {allowed(kind, declaration)}, not {wrong!r}."


def test_options_that_go_together():
    check_reading(CorpusOptions(vocab_size=300))
    check_training(LanguageOptions(vocab_size=300, tokenizer="bpe", minutes=1))
    check_sampling(SampleOptions(greedy=True, temperature=0))


# --- what a model is ---


LEAST = {**dict.fromkeys(LARGEST, 1), "features": 0, "outputs": 0}  # 0: the model reads or predicts tokens
SIZES = {name: st.integers(1, most) for name, most in LARGEST.items() if LEAST[name]}


@settings(deadline=None)
@given(
    sizes=st.fixed_dictionaries(SIZES),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cell=st.text(max_size=5),
    options=st.dictionaries(st.text(max_size=3), st.integers() | st.booleans() | st.text(max_size=3), max_size=2),
)
def test_a_configuration_survives_its_file(sizes, flags, cell, options):
    switches = dict(zip(("tie_word_embeddings", "residual", "layer_norm"), flags, strict=True))
    config = ModelConfig(cell=cell, cell_options=options, **sizes, **switches)
    content = json.loads(json.dumps(config.to_json()))
    assert ModelConfig.from_json(content) == config
    assert ModelConfig.from_json({**content, "from_a_newer_version": 1}) == config


def test_what_may_be_trained_may_be_stored():
    for field, declaration in declared(TrainOptions):
        if field.name in LARGEST:
            assert declaration.high <= LARGEST[field.name]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        *[
            ({name: wrong}, f"{name} must be a whole number from {LEAST[name]} to {most:,}, not {wrong!r}.")
            for name, most in LARGEST.items()
            for wrong in (LEAST[name] - 1, -2, most + 1, 2.0, True, "8", None, math.inf)
        ],
        *[
            ({name: wrong}, f"{name} must be true or false, not {wrong!r}.")
            for name in ("tie_word_embeddings", "residual", "layer_norm")
            for wrong in (0, 1, "true", None)
        ],
        *[
            ({name: wrong}, f"{name} must be text, not {wrong!r}.")
            for name in ("cell", "cell_distribution", "cell_version")
            for wrong in (3, None, ["lstm"])
        ],
        ({"cell_options": ["a"]}, "cell_options must be a table, not ['a']."),
        *[
            ({"format_version": wrong}, f"format_version must be a whole number from 1, not {wrong!r}.")
            for wrong in (0, True, "1", 1.0)
        ],
        *[
            (
                {"format_version": other},
                f"the model has {found}; this textgen reads version {FORMAT_VERSION}.",
            )
            for other, found in [
                (None, "no format version"),
                (1, "format version 1"),
                (FORMAT_VERSION + 1, f"format version {FORMAT_VERSION + 1}"),
            ]
        ],
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused_in_a_sentence(change, sentence):
    with pytest.raises(TextgenError) as caught:
        ModelConfig.from_json({**ModelConfig(10).to_json(), **change})
    assert str(caught.value) == sentence


def test_a_configuration_needs_a_vocabulary_and_a_version():
    for missing, sentence in [
        ("vocab_size", "config.json lacks vocab_size."),
        ("format_version", f"the model has no format version; this textgen reads version {FORMAT_VERSION}."),
    ]:
        content = ModelConfig(10).to_json()
        del content[missing]
        with pytest.raises(TextgenError) as caught:
            ModelConfig.from_json(content)
        assert str(caught.value) == sentence
