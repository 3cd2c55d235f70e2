"""What names a record, and what does not."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molia.base.errors import BadRecordAddress
from molia.base.ids import PeerKey
from molia.base.limits import RECORD_NAME_MAX
from molia.base.record_ref import RecordRef, own_name

KEY = PeerKey(bytes(range(32)))
keys = st.binary(min_size=32, max_size=32).map(PeerKey)
names = st.text(min_size=1, max_size=RECORD_NAME_MAX).filter(
    lambda name: name.isprintable() and len(name.encode()) <= RECORD_NAME_MAX
)


@given(key=keys, name=names)
def test_an_address_is_written_as_it_is_read(key: PeerKey, name: str) -> None:
    for ref in (RecordRef(key, ""), RecordRef(key, name)):
        assert RecordRef.parse(str(ref)) == ref
        assert unquote(ref.quoted) == str(ref)
        assert ref.salt == ref.name.encode()
        assert ref.under(KEY) is ref


@given(name=names)
def test_a_name_alone_is_whoevers_is_asked(name: str) -> None:
    ref = RecordRef.parse(name)
    if ref.peer is None:
        assert (ref.name, str(ref.under(KEY))) == (name, f"{KEY}/{name}")


@given(text=st.text(max_size=200))
@example("\ud800")
@example(f"{KEY}/\ud800")
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        ref = RecordRef.parse(text)
    except BadRecordAddress:
        return
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    ["", "a\nb", "a\x00", "n" * 65, "ü" * 33, f"{KEY}/", f"{KEY}/{'n' * 65}", str(KEY)[:-1] + "b"],
)
def test_what_names_no_record_is_refused(text: str) -> None:
    with pytest.raises(BadRecordAddress):
        RecordRef.parse(text)


@pytest.mark.parametrize("text", [str(KEY), f"{KEY}/n", "molia/addr", "molia/", ""])
def test_a_name_that_is_not_the_users_to_sign_is_refused(text: str) -> None:
    with pytest.raises(BadRecordAddress):
        own_name(text)


@pytest.mark.parametrize("text", ["n", "a/b", "moli", "molia", "x" * 64, "b" * 55])
def test_other_names_are_the_users(text: str) -> None:
    assert own_name(text) == text
