"""Written by scripts/gen_proto.py from molia/wire/schema: change it, run make proto."""

from typing import Any

from google.protobuf import descriptor_pool, message_factory

_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(
    b'\n\tdht.proto\x12\nmolia.wire""\n\x08FindN'
    b'ode\x12\x16\n\x06target\x18\x01 \x01(\x0cR\x06target"5\n\x07C'
    b'ontact\x12\x10\n\x03key\x18\x01 \x01(\x0cR\x03key\x12\x18\n\x07addr'
    b'ess\x18\x02 \x01(\x0cR\x07address"8\n\x05Nodes\x12/\n\x08c'
    b'ontacts\x18\x01 \x03(\x0b2\x13.molia.wire.Conta'
    b'ctR\x08contactsb\x06proto3'
)
_pool.AddSerializedFile(
    b'\n\x0ftransport.proto\x12\nmolia.wire"\xb5\x01'
    b'\n\x05Hello\x12\x1f\n\x0bversion_min\x18\x01 \x01(\rR\nve'
    b'rsionMin\x12\x1f\n\x0bversion_max\x18\x02 \x01(\rR\nv'
    b'ersionMax\x12\x1a\n\x08features\x18\x03 \x01(\x06R\x08fea'
    b'tures\x12\x1a\n\x08software\x18\x04 \x01(\tR\x08softwar'
    b'e\x12\x18\n\x07workers\x18\x05 \x01(\rR\x07workers\x12\x18\n\x07n'
    b'etwork\x18\x06 \x01(\x0cR\x07network"\x06\n\x04Ping"3\n'
    b'\x04Pong\x12\x12\n\x04seen\x18\x01 \x01(\x0cR\x04seen\x12\x17\n\x07uni'
    b'x_ms\x18\x02 \x01(\x04R\x06unixMs"M\n\x04Busy\x12$\n\x0ere'
    b'try_after_ms\x18\x01 \x01(\rR\x0cretryAfterMs'
    b'\x12\x1f\n\x0beffort_bits\x18\x02 \x01(\rR\neffortBit'
    b's"\x1f\n\x05Close\x12\x16\n\x06reason\x18\x01 \x01(\rR\x06reas'
    b'on"/\n\x05Error\x12\x12\n\x04code\x18\x01 \x01(\rR\x04code\x12'
    b'\x12\n\x04text\x18\x02 \x01(\tR\x04text*k\n\x06Number\x12\x08\n'
    b'\x04NONE\x10\x00\x12\t\n\x05HELLO\x10\x01\x12\x08\n\x04PING\x10\x02\x12\x08\n\x04'
    b'PONG\x10\x03\x12\x08\n\x04BUSY\x10\x04\x12\t\n\x05CLOSE\x10\x05\x12\t\n\x05E'
    b'RROR\x10\x06\x12\r\n\tFIND_NODE\x10@\x12\t\n\x05NODES\x10A'
    b'b\x06proto3'
)

FindNode: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.FindNode"))
Contact: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Contact"))
Nodes: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Nodes"))
Hello: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Hello"))
Ping: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Ping"))
Pong: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Pong"))
Busy: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Busy"))
Close: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Close"))
Error: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Error"))
