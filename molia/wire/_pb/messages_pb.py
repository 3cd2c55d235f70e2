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
    b'ctR\x08contacts"q\n\nFindRegion\x12\x16\n\x06ce'
    b'nter\x18\x01 \x01(\x0cR\x06center\x12\x1f\n\x0bradius_bit'
    b's\x18\x02 \x01(\rR\nradiusBits\x12\x12\n\x04salt\x18\x03 \x01('
    b'\x0cR\x04salt\x12\x16\n\x06cursor\x18\x04 \x01(\rR\x06cursor"'
    b'D\n\x03Get\x12\x10\n\x03loc\x18\x01 \x01(\x0cR\x03loc\x12\x1e\n\x08have'
    b'_seq\x18\x02 \x01(\x04H\x00R\x07haveSeq\x88\x01\x01B\x0b\n\t_hav'
    b'e_seq" \n\x06Record\x12\x16\n\x06record\x18\x01 \x01(\x0cR'
    b'\x06record"7\n\x04Miss\x12/\n\x08contacts\x18\x01 \x03('
    b'\x0b2\x13.molia.wire.ContactR\x08contacts'
    b'"<\n\x03Put\x12\x16\n\x06record\x18\x01 \x01(\x0cR\x06record\x12'
    b'\x15\n\x03cas\x18\x02 \x01(\x06H\x00R\x03cas\x88\x01\x01B\x06\n\x04_cas"6'
    b'\n\x08PutReply\x12\x12\n\x04code\x18\x01 \x01(\rR\x04code\x12\x16'
    b'\n\x06record\x18\x02 \x01(\x0cR\x06record"\'\n\x0bAddPro'
    b'vider\x12\x18\n\x07records\x18\x01 \x03(\x0cR\x07records"'
    b'\x1d\n\x05Added\x12\x14\n\x05codes\x18\x01 \x03(\rR\x05codes"H'
    b'\n\x0cGetProviders\x12\x10\n\x03loc\x18\x01 \x01(\x0cR\x03loc'
    b'\x12\x12\n\x04page\x18\x02 \x01(\rR\x04page\x12\x12\n\x04salt\x18\x03 \x01'
    b'(\x0cR\x04salt"O\n\tProviders\x12\x18\n\x07records'
    b'\x18\x01 \x03(\x0cR\x07records\x12\x14\n\x05total\x18\x02 \x01(\rR\x05'
    b'total\x12\x12\n\x04page\x18\x03 \x01(\rR\x04page""\n\x06Dig'
    b'est\x12\x18\n\x07entries\x18\x01 \x01(\x0cR\x07entries"%\n'
    b'\x0bDigestReply\x12\x16\n\x06wanted\x18\x01 \x01(\x0cR\x06wa'
    b'nted"\'\n\x04Pull\x12\x1f\n\x0bradius_bits\x18\x01 \x01('
    b'\rR\nradiusBits"$\n\x06Pulled\x12\x1a\n\x08accep'
    b'ted\x18\x01 \x01(\x08R\x08accepted"\x1d\n\x05Reach\x12\x14\n\x05'
    b'nonce\x18\x01 \x01(\x0cR\x05nonce"\x1d\n\x07Reached\x12\x12\n'
    b'\x04code\x18\x01 \x01(\rR\x04code"H\n\x04Dial\x12\x10\n\x03key'
    b'\x18\x01 \x01(\x0cR\x03key\x12\x18\n\x07address\x18\x02 \x01(\x0cR\x07ad'
    b'dress\x12\x14\n\x05nonce\x18\x03 \x01(\x0cR\x05nonce"\x1c\n\x06D'
    b'ialed\x12\x12\n\x04code\x18\x01 \x01(\rR\x04code"\xab\x01\n\x0cSi'
    b'gnedRecord\x12\x18\n\x07version\x18\x01 \x01(\rR\x07ver'
    b'sion\x12\x1f\n\x0bblinded_key\x18\x02 \x01(\x0cR\nblind'
    b'edKey\x12\x10\n\x03seq\x18\x03 \x01(\x06R\x03seq\x12\x18\n\x07expir'
    b'es\x18\x04 \x01(\x04R\x07expires\x12\x16\n\x06sealed\x18\x05 \x01('
    b'\x0cR\x06sealed\x12\x1c\n\tsignature\x18\x06 \x01(\x0cR\tsi'
    b'gnatureb\x06proto3'
)
_pool.AddSerializedFile(
    b'\n\x0ftransport.proto\x12\nmolia.wire"\xb5\x01'
    b'\n\x05Hello\x12\x1f\n\x0bversion_min\x18\x01 \x01(\rR\nve'
    b'rsionMin\x12\x1f\n\x0bversion_max\x18\x02 \x01(\rR\nv'
    b'ersionMax\x12\x1a\n\x08features\x18\x03 \x01(\x06R\x08fea'
    b'tures\x12\x1a\n\x08software\x18\x04 \x01(\tR\x08softwar'
    b'e\x12\x18\n\x07workers\x18\x05 \x01(\rR\x07workers\x12\x18\n\x07n'
    b'etwork\x18\x06 \x01(\x0cR\x07network"4\n\x04Ping\x12\x16\n'
    b'\x06serves\x18\x01 \x01(\x08R\x06serves\x12\x14\n\x05nonce\x18\x02'
    b' \x01(\x0cR\x05nonce"a\n\x04Pong\x12\x12\n\x04seen\x18\x01 \x01('
    b'\x0cR\x04seen\x12\x17\n\x07unix_ms\x18\x02 \x01(\x04R\x06unixMs'
    b'\x12\x16\n\x06serves\x18\x03 \x01(\x08R\x06serves\x12\x14\n\x05proo'
    b'f\x18\x04 \x01(\x0cR\x05proof"M\n\x04Busy\x12$\n\x0eretry_'
    b'after_ms\x18\x01 \x01(\rR\x0cretryAfterMs\x12\x1f\n\x0b'
    b'effort_bits\x18\x02 \x01(\rR\neffortBits"\x1f\n'
    b'\x05Close\x12\x16\n\x06reason\x18\x01 \x01(\rR\x06reason"/'
    b'\n\x05Error\x12\x12\n\x04code\x18\x01 \x01(\rR\x04code\x12\x12\n\x04t'
    b'ext\x18\x02 \x01(\tR\x04text*\xd4\x02\n\x06Number\x12\x08\n\x04NO'
    b'NE\x10\x00\x12\t\n\x05HELLO\x10\x01\x12\x08\n\x04PING\x10\x02\x12\x08\n\x04PON'
    b'G\x10\x03\x12\x08\n\x04BUSY\x10\x04\x12\t\n\x05CLOSE\x10\x05\x12\t\n\x05ERRO'
    b'R\x10\x06\x12\r\n\tFIND_NODE\x10@\x12\t\n\x05NODES\x10A\x12\x0f\n'
    b'\x0bFIND_REGION\x10B\x12\x07\n\x03GET\x10C\x12\n\n\x06RECOR'
    b'D\x10D\x12\x08\n\x04MISS\x10E\x12\x07\n\x03PUT\x10F\x12\r\n\tPUT_RE'
    b'PLY\x10G\x12\x10\n\x0cADD_PROVIDER\x10H\x12\t\n\x05ADDED'
    b'\x10I\x12\x11\n\rGET_PROVIDERS\x10J\x12\r\n\tPROVIDE'
    b'RS\x10K\x12\n\n\x06DIGEST\x10L\x12\x10\n\x0cDIGEST_REPLY'
    b'\x10M\x12\x08\n\x04PULL\x10N\x12\n\n\x06PULLED\x10O\x12\t\n\x05REAC'
    b'H\x10P\x12\x0b\n\x07REACHED\x10Q\x12\x08\n\x04DIAL\x10R\x12\n\n\x06DI'
    b'ALED\x10Sb\x06proto3'
)

FindNode: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.FindNode"))
Contact: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Contact"))
Nodes: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Nodes"))
FindRegion: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.FindRegion"))
Get: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Get"))
Record: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Record"))
Miss: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Miss"))
Put: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Put"))
PutReply: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.PutReply"))
AddProvider: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.AddProvider"))
Added: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Added"))
GetProviders: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.GetProviders"))
Providers: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Providers"))
Digest: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Digest"))
DigestReply: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.DigestReply"))
Pull: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Pull"))
Pulled: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Pulled"))
Reach: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Reach"))
Reached: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Reached"))
Dial: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Dial"))
Dialed: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Dialed"))
SignedRecord: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.SignedRecord"))
Hello: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Hello"))
Ping: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Ping"))
Pong: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Pong"))
Busy: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Busy"))
Close: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Close"))
Error: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Error"))
