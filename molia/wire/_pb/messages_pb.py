"""Written by scripts/gen_proto.py from molia/wire/schema: change it, run make proto."""

from typing import Any

from google.protobuf import descriptor_pool, message_factory

_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(
    b'\n\x0bblobs.proto\x12\nmolia.wire"[\n\x05Off'
    b'er\x12\x10\n\x03cid\x18\x01 \x01(\x0cR\x03cid\x12\x12\n\x04size\x18\x02 \x01'
    b'(\x04R\x04size\x12\x16\n\x06shares\x18\x03 \x03(\rR\x06shares'
    b'\x12\x14\n\x05owner\x18\x04 \x01(\x0cR\x05owner"\x87\x01\n\x07Offer'
    b'ed\x12\x12\n\x04code\x18\x01 \x01(\rR\x04code\x12\x1a\n\x08accept'
    b'ed\x18\x02 \x03(\rR\x08accepted\x12\x12\n\x04kept\x18\x03 \x03(\r'
    b'R\x04kept\x12\x12\n\x04room\x18\x04 \x01(\x04R\x04room\x12$\n\x0ere'
    b'try_after_ms\x18\x05 \x01(\rR\x0cretryAfterMs'
    b'"\xcf\x01\n\x08PutShare\x12\x10\n\x03cid\x18\x01 \x01(\x0cR\x03cid\x12'
    b'\x14\n\x05share\x18\x02 \x01(\rR\x05share\x12\x1a\n\x08manifes'
    b't\x18\x03 \x01(\x0cR\x08manifest\x12\x14\n\x05lease\x18\x04 \x01(\x0c'
    b'R\x05lease\x12!\n\x0cfirst_stripe\x18\x05 \x01(\rR\x0bf'
    b'irstStripe\x12\x12\n\x04root\x18\x06 \x01(\x0cR\x04root\x12\x12'
    b'\n\x04size\x18\x07 \x01(\rR\x04size\x12\x1e\n\nsupplement'
    b'\x18\x08 \x01(\x0cR\nsupplement"U\n\tShareKept\x12'
    b'\x12\n\x04code\x18\x01 \x01(\rR\x04code\x12\x18\n\x07stripes\x18\x02'
    b' \x01(\rR\x07stripes\x12\x1a\n\x08provider\x18\x03 \x01(\x0cR'
    b'\x08provider"?\n\x0bGetManifest\x12\x10\n\x03cid\x18'
    b'\x01 \x01(\x0cR\x03cid\x12\x1e\n\nsupplement\x18\x02 \x01(\x08R\n'
    b'supplement"&\n\x08Manifest\x12\x1a\n\x08manife'
    b'st\x18\x01 \x01(\x0cR\x08manifest"3\n\tGetLeaves\x12'
    b'\x10\n\x03cid\x18\x01 \x01(\x0cR\x03cid\x12\x14\n\x05share\x18\x02 \x01(\r'
    b'R\x05share"2\n\x06Leaves\x12\x14\n\x05share\x18\x01 \x01(\r'
    b'R\x05share\x12\x12\n\x04size\x18\x02 \x01(\rR\x04size"\x8f\x01\n\t'
    b'GetBlocks\x12\x10\n\x03cid\x18\x01 \x01(\x0cR\x03cid\x12\x14\n\x05s'
    b'hare\x18\x02 \x01(\rR\x05share\x12!\n\x0cfirst_strip'
    b'e\x18\x03 \x01(\rR\x0bfirstStripe\x12!\n\x0cstripe_c'
    b'ount\x18\x04 \x01(\rR\x0bstripeCount\x12\x14\n\x05paths'
    b'\x18\x05 \x01(\x08R\x05paths"d\n\x06Blocks\x12\x14\n\x05share'
    b'\x18\x01 \x01(\rR\x05share\x12!\n\x0cfirst_stripe\x18\x02 '
    b'\x01(\rR\x0bfirstStripe\x12!\n\x0cstripe_count'
    b'\x18\x03 \x01(\rR\x0bstripeCount"G\n\x05Audit\x12\x10\n\x03'
    b'cid\x18\x01 \x01(\x0cR\x03cid\x12\x14\n\x05share\x18\x02 \x01(\rR\x05s'
    b'hare\x12\x16\n\x06stripe\x18\x03 \x01(\rR\x06stripe"E\n\x07'
    b'Audited\x12\x12\n\x04code\x18\x01 \x01(\rR\x04code\x12\x12\n\x04p'
    b'ath\x18\x02 \x01(\x0cR\x04path\x12\x12\n\x04size\x18\x03 \x01(\rR\x04s'
    b'ize"\x1f\n\x05Lease\x12\x16\n\x06leases\x18\x01 \x03(\x0cR\x06le'
    b'ases"2\n\x06Leased\x12\x14\n\x05codes\x18\x01 \x03(\rR\x05c'
    b'odes\x12\x12\n\x04held\x18\x02 \x03(\x0cR\x04held"\x1a\n\x04Have'
    b'\x12\x12\n\x04cids\x18\x01 \x03(\x0cR\x04cids"h\n\x04Held\x12\x16\n\x06'
    b'shares\x18\x01 \x01(\x0cR\x06shares\x12\x14\n\x05whole\x18\x02 '
    b'\x01(\x08R\x05whole\x12\x18\n\x07partial\x18\x03 \x03(\rR\x07par'
    b'tial\x12\x18\n\x07stripes\x18\x04 \x03(\rR\x07stripes"+'
    b'\n\x03Has\x12$\n\x04held\x18\x01 \x03(\x0b2\x10.molia.wire'
    b'.HeldR\x04held"\x1d\n\x05Claim\x12\x14\n\x05claim\x18\x01 '
    b'\x01(\x0cR\x05claim"3\n\x07Claimed\x12\x12\n\x04code\x18\x01 '
    b'\x01(\rR\x04code\x12\x14\n\x05claim\x18\x02 \x01(\x0cR\x05claimb'
    b'\x06proto3'
)
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
    b'ext\x18\x02 \x01(\tR\x04text*\xcf\x04\n\x06Number\x12\x08\n\x04NO'
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
    b'ALED\x10S\x12\n\n\x05OFFER\x10\x80\x01\x12\x0c\n\x07OFFERED\x10\x81\x01'
    b'\x12\x0e\n\tPUT_SHARE\x10\x82\x01\x12\x0f\n\nSHARE_KEPT\x10\x83'
    b'\x01\x12\x11\n\x0cGET_MANIFEST\x10\x84\x01\x12\r\n\x08MANIFEST'
    b'\x10\x85\x01\x12\x0f\n\nGET_LEAVES\x10\x86\x01\x12\x0b\n\x06LEAVES\x10\x87'
    b'\x01\x12\x0f\n\nGET_BLOCKS\x10\x88\x01\x12\x0b\n\x06BLOCKS\x10\x89\x01\x12'
    b'\n\n\x05AUDIT\x10\x8a\x01\x12\x0c\n\x07AUDITED\x10\x8b\x01\x12\n\n\x05LEA'
    b'SE\x10\x8c\x01\x12\x0b\n\x06LEASED\x10\x8d\x01\x12\t\n\x04HAVE\x10\x8e\x01\x12\x08\n'
    b'\x03HAS\x10\x8f\x01\x12\n\n\x05CLAIM\x10\x90\x01\x12\x0c\n\x07CLAIMED\x10\x91'
    b'\x01b\x06proto3'
)

Offer: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Offer"))
Offered: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Offered"))
PutShare: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.PutShare"))
ShareKept: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.ShareKept"))
GetManifest: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.GetManifest"))
Manifest: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Manifest"))
GetLeaves: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.GetLeaves"))
Leaves: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Leaves"))
GetBlocks: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.GetBlocks"))
Blocks: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Blocks"))
Audit: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Audit"))
Audited: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Audited"))
Lease: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Lease"))
Leased: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Leased"))
Have: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Have"))
Held: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Held"))
Has: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Has"))
Claim: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Claim"))
Claimed: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("molia.wire.Claimed"))
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
