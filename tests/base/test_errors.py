"""The one table of what a failure looks like outside."""

import re

import pytest

from molia.base import errors
from molia.base.errors import OUTCOMES, MoliaError, outcome_of


def classes() -> list[type[MoliaError]]:
    """Every error class, found through the tree and not through the table."""
    found, waiting = [], [MoliaError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_remedy_and_an_outcome(kind: type[MoliaError]) -> None:
    assert kind.__doc__
    assert kind.__doc__.rstrip().endswith(".")
    row = outcome_of(kind)
    assert re.fullmatch(r"[a-z][a-z-]+", row.code)
    assert 400 <= row.status <= 599
    assert 1 <= row.exit_code <= 14 or row.exit_code == 130
    assert row.title


def test_every_row_is_of_a_class_and_every_code_is_used_once() -> None:
    assert set(OUTCOMES) <= set(classes())
    codes = [row.code for row in OUTCOMES.values()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_a_clients_mistake_is_a_4xx_and_ours_a_5xx(kind: type[MoliaError]) -> None:
    if issubclass(kind, errors.BadInput | errors.NotFound):
        assert outcome_of(kind).status < 500
    if issubclass(kind, errors.StoreError | errors.BlobError):
        assert outcome_of(kind).status >= 500


def test_a_class_without_a_row_takes_its_nearest_ancestors() -> None:
    class Deeper(errors.NoSpace):
        """Only here."""

    assert outcome_of(Deeper) == OUTCOMES[errors.NoSpace]
    assert outcome_of(Deeper("full")) == OUTCOMES[errors.NoSpace]
    assert outcome_of(errors.BlockCorrupt) == OUTCOMES[errors.BlobError]


def test_a_message_and_its_hint_are_kept_apart() -> None:
    error = MoliaError("it broke", hint="mend it")
    assert (str(error), error.message, error.hint) == ("it broke", "it broke", "mend it")
    assert errors.Busy("later", retry_after_s=9).hint == "try again in 9 s"


@pytest.mark.parametrize("text", ["x" * 10_000, "\ud800", "\x1b[2J", "é\n", "\0"])
def test_what_a_client_sent_is_shown_short_and_plain(text: str) -> None:
    for kind in (errors.BadCid, errors.BadPeerKey):
        message = kind(text).message
        assert len(message) < 600
        assert message.isascii()
        assert message.isprintable()
