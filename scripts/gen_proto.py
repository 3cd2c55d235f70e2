"""Writes molia/wire/_pb from molia/wire/schema. Run it by `make proto`.

What protoc writes for Python is tied to one or two major versions of the protobuf runtime. What
this script writes is not: the compiled schema, byte for byte, and classes made from it by the
runtime's public `message_factory`. protoc only parses the schema.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "molia" / "wire" / "schema"
TARGET = ROOT / "molia" / "wire" / "_pb"
HEAD = '''"""Written by scripts/gen_proto.py from molia/wire/schema: change it, run make proto."""

from typing import Any

from google.protobuf import descriptor_pool, message_factory

_pool = descriptor_pool.DescriptorPool()
'''


def compiled() -> FileDescriptorSet:
    """Return the schema as protoc understands it. Raises SystemExit when it does not."""
    names = sorted(path.name for path in SCHEMA.glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "schema"
        code = protoc.main(["protoc", f"-I{SCHEMA}", f"--descriptor_set_out={out}", *names])
        if code != 0:
            raise SystemExit(code)
        return FileDescriptorSet.FromString(out.read_bytes())


def rendered() -> Mapping[str, str]:
    """Return the text of each generated file by its name."""
    lines = [HEAD]
    names: list[str] = []
    for file in compiled().file:
        lines.append(f"_pool.AddSerializedFile({_literal(file.SerializeToString())})\n")
        names += [f"{file.package}.{message.name}" for message in file.message_type]
    lines.append("\n")
    lines += [
        f"{full.rpartition('.')[2]}: Any = message_factory.GetMessageClass("
        f'_pool.FindMessageTypeByName("{full}"))\n'
        for full in names
    ]
    return {"__init__.py": '"""Generated code."""\n', "messages_pb.py": "".join(lines)}


def _literal(data: bytes) -> str:
    rows = [f"    {data[at : at + 32]!r}\n" for at in range(0, len(data), 32)]
    return "\n" + "".join(rows)


def main() -> int:
    """Write the files; return the exit code."""
    TARGET.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (TARGET / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
