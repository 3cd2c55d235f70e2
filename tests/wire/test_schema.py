"""The generated code is that of the schema."""

from molia.wire._pb import messages_pb
from molia.wire.blob_messages import AuditCode, ClaimCode, KeptCode, LeaseCode, OfferCode
from molia.wire.dht_messages import AddCode, DialCode, PutCode
from molia.wire.messages import CloseReason, ErrorCode, Number
from scripts import gen_docs, gen_proto, proto_docs


def test_generated_code_equals_what_the_schema_gives() -> None:
    for name, text in gen_proto.rendered().items():
        assert (gen_proto.TARGET / name).read_text("utf-8") == text, "run make proto"


def test_every_message_of_the_schema_has_a_class() -> None:
    names = [m.name for file in gen_proto.compiled().file for m in file.message_type]
    assert len(names) >= 9
    for name in names:
        assert name == getattr(messages_pb, name).DESCRIPTOR.name


def test_the_page_holds_every_number_message_and_field() -> None:
    text = gen_docs.PAGES["messages.md"]()
    assert len(Number) == text.count("\n## ") - 5  # Negotiation, Numbers, three parts
    for number in Number:
        assert f"| {number.value} | `{number.name}` |" in text
        assert f"\n## {number.name}, {number.value}\n" in text
    fields = {
        f.name for file in gen_proto.compiled().file for m in file.message_type for f in m.field
    }
    assert [name for name in sorted(fields) if f"| `{name}` |" not in text] == []


def test_every_reason_and_code_is_in_the_schemas_words() -> None:
    members = {(b.name, m.name): m.about for b in proto_docs.blocks() for m in b.members}
    for where, kinds in (
        (("Close", "reason"), CloseReason), (("Error", "code"), ErrorCode),
        (("PutReply", "code"), PutCode), (("Added", "codes"), AddCode),
        (("Reached", "code"), DialCode), (("Dialed", "code"), DialCode),
        (("Offered", "code"), OfferCode), (("ShareKept", "code"), KeptCode),
        (("Audited", "code"), AuditCode), (("Leased", "codes"), LeaseCode),
        (("Claimed", "code"), ClaimCode),
    ):  # fmt: skip
        for kind in kinds:
            assert f"{kind.value} " in members[where]
