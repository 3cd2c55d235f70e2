"""Every bound: a queue, a table, a loop or a message that could grow has its limit here.

What an operator may choose is a setting (`base/config.py`); what is here is fixed.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

# -- blobs
BLOB_SIZE_MAX: Final = 1 * TIB
RAW_SIZE_STOP: Final = 1_000_000
"""Blobs of this size and more have a manifest; smaller ones are kept whole."""
DATA_SHARES: Final = 10
TOTAL_SHARES: Final = 14
BLOCK_SIZE_MAX: Final = 256 * KIB
BLOCK_SIZE_MIN: Final = 4 * KIB
MANIFEST_SIZE_MAX: Final = 1 * KIB
STRIPES_IN_FLIGHT: Final = 4

# -- blobs on the network
WHOLE_SHARE: Final = 0xFFFF
"""The share number of a small blob, which is kept whole."""
SHARES_MAX: Final = 64
"""Shares of one blob with all the parity that was added later."""
COPIES_MIN: Final = 5
"""Nodes that keep a small blob: it survives 4 losses, as a large one on 14 nodes."""
COPIES_MAX: Final = 20
FULL_HOLDERS: Final = 3
"""Nodes that get a readable set each where there are too few nodes for the floor."""
SURVIVES_EXACT_MAX: Final = 16
"""Shares up to which duplicates are counted exactly when losses are."""
ADDED_SHARES_MAX: Final = 32
"""Shares that are added to a blob at most: with their supplement they fit the head of a share."""
SUPPLEMENT_SIZE_MAX: Final = 1_652
"""The roots of 50 shares."""
LEASE_SIZE: Final = 145
"""A signed lease, or a claim to repair."""
HOLDER_CANDIDATES_MAX: Final = 200
"""Nodes that one job looks at as holders."""
SHARE_STREAMS_MAX: Final = 64
"""Shares of one blob that are sent at once."""
GIVEN_BLOCKS_MAX: Final = 4
"""Blocks of one share that are read at once to be sent: 1 MiB."""
SOURCES_MAX: Final = 128
"""Nodes that one read knows to have shares, and manifests that are named for one content."""
ASKED_SHOWN_MAX: Final = 20
"""Nodes that an error names as asked."""
AUDITS_WAITING_MAX: Final = 4_096
"""Audits that are due and not begun; the node finds more when these are done."""
AUDITS_UNDER_WAY_MAX: Final = 8
AUDIT_FAILURES_MAX: Final = 3
"""Failures without a success between them that lose a share."""
REPAIR_CASES_MAX: Final = 65_536
"""Blobs that lack shares and are watched; the worst off stay. About 400 bytes each."""
INTAKE_BLOCKS_MAX: Final = 4
"""Blocks of a share that comes in which are not durable yet; more waits in the stream."""
LEASE_LIFE_MAX_S: Final = 400 * 86_400
"""How long one lease may last; a pinner renews it long before."""
CLAIM_LIFE_MAX_S: Final = 3_600
"""How long a claim to repair may last: a job has 45 minutes."""
OWNERS_MAX: Final = 65_536
"""Owners whose shares are counted; about 150 bytes each."""
LEASES_PER_MESSAGE_MAX: Final = 7
"""Seven in LEASE, and seven codes and leases in LEASED, fit a datagram."""
BLOCKS_PER_REQUEST_MAX: Final = 64
"""Blocks of one GET_BLOCKS: 16 MiB, one stream's window."""
HAVE_CIDS_MAX: Final = 16
PARTIAL_SHARES_MAX: Final = 8
"""Shares of one blob that may come in at once."""
STRIPES_MAX: Final = 419_431
"""Stripes of the largest blob."""
PATH_HASHES_MAX: Final = 19
"""Hashes between a leaf and the root of the longest list."""

# -- blobs on the network: keeping for others and placing
INTAKES_MAX: Final = 64
"""Shares that come in to a worker at once; four blocks each, so 64 MiB."""
INTAKES_PER_PEER_MAX: Final = 8
BROKEN_MAX: Final = 1_024
"""Shares whose stream broke and of which the worker remembers how far they came."""
BROKEN_KEEP_S: Final = 600.0
"""How long what came of a broken share is kept for whoever goes on with it."""
HELD_PER_PASS_MAX: Final = 10_000
"""Blobs held for others that one pass of the sweep ends."""
LEASES_PER_HELD_MAX: Final = 64
"""Owners of one blob that is held for them; more are refused."""
PLACINGS_MAX: Final = 4_096
"""Blobs that wait in a worker to be placed; the rest is found in the store when these are done."""
RELEASES_KEPT_MAX: Final = 4_096
"""Blobs that were removed last of which a worker knows what it told their holders."""
PLACINGS_SMALL: Final = 16
"""Small blobs that one worker places at once."""
PLACINGS_LARGE: Final = 4
"""And large ones; each sends 16 shares at once, a block of each in memory: 16 MiB."""
OFFERS_AT_ONCE: Final = 16
"""Nodes that one job asks for room at once."""
NO_OFFER_MAX: Final = 4_096
"""Nodes that are remembered not to offer space."""
ISSUED_MAX: Final = 4_096
"""Locations of which it is remembered when the last provider record was issued."""
PLACE_JOBS_KEPT: Final = 64
"""Jobs of placing, and as many of pinning, that have ended and are still shown."""
PINS_AT_ONCE: Final = 2
"""Pinned blobs that one worker fetches at once."""

# -- blobs on the network: watching and repairing
LOOKS_AT_ONCE: Final = 8
"""Blobs whose holders a worker looks at side by side."""
PRESENCES_MAX: Final = 16_384
"""Nodes of which a worker remembers whether they answer; about 200 bytes each."""
WATCHED_HOLDERS_MAX: Final = 128
"""Holders of one blob that are watched."""
CLAIMS_HEEDED_S: Final = 10_800.0
"""How long claims of others, of however many, keep a holder from one repair: four jobs' time."""
CLAIMS_AT_ONCE: Final = 64
"""Claims of others that a worker looks at side by side."""
RESTS_MAX: Final = 4_096
"""Blobs of which a worker remembers that a repair made nothing better."""
PINS_COMING_MAX: Final = 256
"""Pins of blobs that are not here which one look finds; the next finds more."""
SPREADS_MAX: Final = 4_096
"""Blobs that lie doubled up and of which a worker knows when to try again; 200 bytes each."""
SPARE_AUDITS_MAX: Final = 4
"""Shares at others that one look audits because we have them too."""
REPAIRS_SHOWN_MAX: Final = 1_000
"""Blobs that `GET /repair` shows, the most urgent first."""

# -- blobs on the network: giving and getting
SERVED_MAX: Final = 64
"""Requests for blocks that a worker answers at once: `GIVEN_BLOCKS_MAX` each, 64 MiB."""
MANIFESTS_READ_MAX: Final = 64
"""Manifests that are remembered as they were read, of blobs whose blocks are asked for."""
SERVED_PER_PEER_MAX: Final = 16
SERVED_WAITING_MAX: Final = 512
"""Requests that wait for their turn; more are told to come again."""
SERVED_WAITING_PER_PEER_MAX: Final = 64
"""Of these, of one peer: a reader of a blob that one node holds alone has 40 under way."""
SERVED_BYTES_PER_S_MIN: Final = 64 * KIB
"""Who takes a reply more slowly than this, beside half a minute, is cut off."""
TREE_CACHE_BYTES: Final = 16 * MIB
"""Merkle trees from which paths are given; the tree of 1 TiB takes 27 MB and is made each time."""
FINDS_MAX: Final = 1_024
"""Blobs of which a worker remembers who has them; with all sources 20 KB each."""
CACHE_FILLS_MAX: Final = 16
"""Blobs that are written to the cache at once, each with at most four stripes in memory."""
CACHE_FILL_STRIPES_MAX: Final = 4
"""Stripes of one of them that were read and not written yet; with more it is given up."""
CACHED_MAX: Final = 10_000
"""Blobs in the cache: all of them are looked at every half minute, and until then twice as many."""
READS_MAX: Final = 256
"""Reads through the network of one worker at once."""
SPEEDS_MAX: Final = 4_096
"""Nodes of which it is remembered how fast they gave blocks; about 150 bytes each."""

# -- store
SHARDS_MAX: Final = 64
SHARD_PLACES_MAX: Final = 16_384
"""Places of keys whose shard is remembered; about 250 bytes each."""
KEY_SIZE_MAX: Final = 80
VALUE_SIZE_MAX: Final = 16 * MIB
BATCH_OPS_MAX: Final = 1024
BATCH_BYTES_MAX: Final = 32 * MIB
WRITE_QUEUE_BYTES_MAX: Final = 64 * MIB
"""Bytes waiting for one shard's writer; more waits outside."""
WRITE_QUEUE_OPS_MAX: Final = 16_384
CHECKPOINT_KEYS: Final = 100_000
CHECKPOINT_LOG_BYTES: Final = 256 * MIB
CHECKPOINT_SLICE_KEYS: Final = 5_000
SEGMENT_SIZE_MAX: Final = 256 * MIB
SEGMENT_SIZE_MIN: Final = 4 * MIB
BALLAST_MAX: Final = 256 * MIB
BALLAST_MIN: Final = 8 * MIB
PUNCH_BYTES: Final = 16 * MIB
QUOTA_HIGH_SHARE: Final = 0.9
"""Puts are refused above this share of the quota; the rest is for deletes and compaction."""
QUOTA_PRESS_SHARE: Final = 0.8
"""Above this share less garbage is worth a compaction."""
COMPACT_BYTES_PER_S: Final = 64_000_000
"""How fast compaction copies while there are writes; four times as fast when there are none."""
COMPACT_PIECE_BYTES: Final = 1 * MIB
COMPACT_PIECE_FRAMES: Final = 256
COMPACT_SYNC_BYTES: Final = 8 * MIB
COMPACT_VICTIMS_MAX: Final = 64
INDEX_MAP_BYTES: Final = 256 * GIB
DELTA_MAP_BYTES: Final = 4 * GIB
"""What other processes see before a checkpoint; 100,000 keys take about 10 MiB of it."""
LMDB_READERS_MAX: Final = 512
SEGMENT_FILES_OPEN_MAX: Final = 256
SCAN_ROWS_MAX: Final = 10_000
EXPIRY_ROUND_S: Final = 3_600.0
"""Within this time every key of a shard was looked at for its expiry."""
EXPIRY_SLICE_KEYS: Final = 5_000
CLOCK_DRIFT_MAX_S: Final = 600.0
"""How far wall time may leave monotonic time before it counts as a jump."""
CLOCK_JUMP_MAX_S: Final = 3_600.0
"""How far the clock at a start may be from what the store saw last."""
CLOCK_WAIT_S: Final = 24 * 3_600.0
"""After a jump nothing is removed for its age for so long, unless an operator says so."""
SCRUB_EVERY_S: Final = 30 * 86_400.0
SCRUB_BYTES_PER_S: Final = 20 * MIB
SCRUB_STEP_BYTES: Final = 1 * MIB

# -- cached blobs
CACHE_LIFE_MIN_S: Final = 300
CACHE_LIFE_MAX_S: Final = 1_800
"""A cached blob goes after so long, drawn for each; earlier when space is needed."""

# -- backups
BACKUP_LINES_MAX: Final = 1_000_000
BACKUP_SIZE_MAX: Final = 1 * GIB

# -- node
BUFFER_BUDGET_BYTES: Final = 128 * MIB
"""Stripes being filled, coded, stored or read, over all requests."""
BUFFER_WAIT_S: Final = 30.0
LEAF_CACHE_BYTES: Final = 32 * MIB
UPLOAD_IDLE_S: Final = 60.0
"""An upload that sends nothing for this long is cut off."""
WRITE_WAIT_S: Final = 60.0
"""How long a write may wait for its shard before the caller is told 503."""
JOBS_MAX: Final = 256
JOB_EVENTS_MAX: Final = 256
JOB_KEEP_S: Final = 7 * 86_400
JOB_TARGETS_MAX: Final = 10_000
JOB_STREAMS_MAX: Final = 64
DAMAGE_QUEUE_MAX: Final = 4_096
UNREADABLE_PAGES_MAX: Final = 64
"""Pages of a shard that are damage when it opens; with more the disk itself fails."""

# -- requests between peers
REQUESTS_MAX: Final = 4_096
"""Requests of one worker that wait for a reply."""
REQUESTS_PER_PEER_MAX: Final = 256
REQUEST_TRIES_MAX: Final = 3
DATAGRAM_BODY_MAX: Final = 1_156
"""What is left of 1,200 bytes of UDP for a message: 32 of the packet, 12 of its frame less."""
ANSWERS_MAX: Final = 4_096
"""Replies kept so that a request is not carried out twice."""
ANSWERS_BYTES_MAX: Final = 4 * MIB
ANSWERS_KEEP_S: Final = 30.0
PEER_REQUESTS_PER_S: Final = 2_000.0
"""Requests of one peer that are answered, with a burst; more are told to wait."""
PEER_REQUESTS_BURST: Final = 1_000.0
CHANNEL_BURSTS_MAX: Final = 4
"""Bursts that one peer's streams send before it is another's turn."""
STREAM_READ_BYTES: Final = 256 * KIB
STREAM_IDLE_S: Final = 30.0
"""How long a stream may stand still before it is given up."""
STREAM_TASKS_MAX: Final = 1_024
"""Streams of peers that are served at once."""
RTT_PEERS_MAX: Final = 4_096
RTT_SAMPLES: Final = 256

# -- the UDP socket
UDP_PACKET_MAX: Final = 2_048
"""Larger than any datagram of ours; a larger one is cut and fails its checks."""
UDP_RECEIVE_BYTES: Final = 64 * KIB
"""What one call takes where the kernel joins the packets of a sender."""
UDP_DRAIN_PACKETS: Final = 64
"""Packets taken before other tasks get their turn."""
UDP_SOCKET_BYTES: Final = 4 * MIB
"""What is asked of the kernel for each direction; it gives what its own limits allow."""
UDP_QUEUE_BYTES_MAX: Final = 4 * MIB
"""Datagrams that wait for the socket; beyond it they are lost, as on a path."""

# -- workers
UDP_ADDRESSES_MAX: Final = 16
"""UDP addresses of a node; each costs a socket a worker."""
BUFFER_WORKER_MIN_BYTES: Final = 32 * MIB
"""What a worker may hold of stripes at least: four of each of `PINS_AT_ONCE` reads, and one."""
BUS_HEAD_MAX: Final = 8 * MIB
"""One message between workers, without its values; the longest lists segments or metrics."""
BUS_BLOB_MAX: Final = BATCH_BYTES_MAX + VALUE_SIZE_MAX
"""The values of one message between workers."""
BUS_IN_FLIGHT_BYTES: Final = 32 * MIB
"""Bytes sent to another worker and not answered yet; more waits outside."""
BUS_ASK_S: Final = 5.0
"""How long a node-wide question waits for the slowest worker."""
SHARD_WAIT_S: Final = 5.0
"""How long a write waits for a shard whose worker starts anew."""

# -- api and cli
NAME_SIZE_MAX: Final = 1_024
FIELD_SIZE_MAX: Final = 64 * KIB
"""One multipart field or JSON body that is not the file."""
PARTS_MAX: Final = 64
LIST_LIMIT_MAX: Final = 1_000
CONNECTIONS_MAX: Final = 1_024
JSON_BODY_MAX: Final = 1 * MIB
"""A JSON request body: the longest names `JOB_TARGETS_MAX` blobs."""
CURSOR_SIZE_MAX: Final = 256
UNIX_S_MAX: Final = 253_402_300_799
"""The last second of the year 9999: later ones cannot be written down."""
REQUEST_HEAD_MAX: Final = 64 * KIB
"""Request line and headers together."""
REQUEST_HEAD_WAIT_S: Final = 30.0
"""How long a client may take over its request line and headers."""
PART_HEADERS_MAX: Final = 16
PART_HEADER_SIZE_MAX: Final = 8 * KIB
KEEP_ALIVE_S: Final = 75
DOWNLOAD_IDLE_S: Final = 300.0
"""A download whose client takes nothing for this long is cut off."""
EVENTS_HEARTBEAT_S: Final = 15.0
LINGER_S: Final = 2.0
"""After an answer that came before the body's end: how long the rest is read and thrown away."""
LINGER_BYTES_MAX: Final = 16 * MIB
SHUTDOWN_S: Final = 30.0
SOCKET_PATH_MAX: Final = 100
CONFIG_FILE_SIZE_MAX: Final = 1 * MIB
ANSWER_SIZE_MAX: Final = 64 * MIB
"""One JSON answer that the command reads from a node."""

# -- wire: handshake and sessions
HANDSHAKE_SIZE_MAX: Final = 1_200
"""Bytes of an initiation or response: what every path carries."""
EARLY_DATA_SIZE_MIN: Final = 1_200
"""An initiation with a request is padded to this, so that its answer has room."""
PROOF_SIZE_MAX: Final = 128
EXCHANGE_KEYS_MAX: Final = 16_384
"""Peer keys whose X25519 form is remembered; about 300 bytes each, so 5 MiB."""
PEERS_MAX: Final = 16_384
"""Peers with a confirmed session; about 6 KiB each, so 100 MiB."""
UNCONFIRMED_MAX: Final = 1_024
"""Peers whose first packet under new keys has not come yet; the oldest go first."""
PEER_SCANS_MAX: Final = 32
"""Peers looked at to find an idle one to evict."""
TIMESTAMPS_MAX: Final = 32_768
"""Newest timestamp per static key and worker; about 350 bytes each, so 11 MiB."""
WAITING_PACKETS_MAX: Final = 16
"""Plaintexts of one peer that wait for its handshake."""
WAITING_BYTES_MAX: Final = 32 * KIB
"""Their bytes, so that peers that never answer hold little."""
EFFECTS_MAX: Final = 65_536
"""Effects that nobody took; more are dropped and counted."""
REPLAY_WINDOW: Final = 2_048
"""Counters behind the highest that are still told apart; a late packet beyond them is lost."""
MESSAGES_MAX: Final = 2**64 - 2**13 - 1
"""Packets under one key; after that the session is dead."""

# -- wire: addresses and messages
HOST_SIZE_MAX: Final = 253
"""Characters of a host, as a number or a name (RFC 1035)."""
ADDRESS_TEXT_MAX: Final = 400
ADDRESS_CACHE_MAX: Final = 4_096
"""Hosts whose packed form is remembered; about 200 bytes each."""
MESSAGE_SIZE_MAX: Final = 2 * KIB
"""A small message's body: more than a datagram carries, little enough to parse for a stranger."""
NODES_CONTACTS_MAX: Final = 20
"""Contacts of one reply: 20 of IPv6 just fit a packet of 1,200 bytes."""
SOFTWARE_LABEL_MAX: Final = 64
ERROR_TEXT_MAX: Final = 200
BUSY_WAIT_MS_MAX: Final = 3_600_000
"""The longest that a peer may ask us to wait."""
WORKERS_MAX: Final = 16
"""Workers of a node, so also the sessions that a peer may hold."""

# -- wire: admission
PUZZLE_BITS_MAX: Final = 24
"""The dearest request puzzle: about 6 s of one core in Python."""
HANDSHAKE_QUEUE_MAX: Final = 1_024
"""Initiations that wait for their Diffie-Hellman; at most 1.4 MB."""
LOADED_QUEUE: Final = 128
"""From this many waiting initiations on the node is under load."""
HANDSHAKE_WAIT_S: Final = 5.0
"""An initiation that waited longer is dropped: its sender has sent another."""
HOST_BUCKETS_MAX: Final = 16_384
"""Sources with a token bucket of their own; about 180 bytes each."""
NETWORK_BUCKETS_MAX: Final = 16_384
OPERATOR_BUCKETS_MAX: Final = 4_096
SPENT_FILTER_BITS: Final = 1 << 24
"""Bits of the filter of spent ephemerals, 2 MiB, for each of two epochs. With 660,000 entries, all
that a fifth of a core lets through in an epoch, it refuses one honest ephemeral in 3,000."""
SCORES_MAX: Final = 8_192
"""Identities, and as many networks, whose misdeeds are remembered; about 250 bytes each."""
PROOFS_PER_S_MAX: Final = 50
"""Identity proofs verified a second: 2 to 3% of a core."""

# -- streams (one peer's channel; all of it is allocated only as it is used)
STREAMS_MAX: Final = 256
"""Streams that either side may have open at once: 2 KB each."""
STREAM_WINDOW_START: Final = 256 * KIB
STREAM_WINDOW_MAX: Final = 16 * MIB
"""Unread bytes of one stream; windows grow to it only while the reader keeps up."""
CHANNEL_WINDOW_START: Final = 1 * MIB
CHANNEL_WINDOW_MAX: Final = 24 * MIB
"""Unread bytes of all streams of a peer: what a peer can make us hold."""
SEND_BUFFER_START: Final = 256 * KIB
SEND_BUFFER_MAX: Final = 16 * MIB
"""Bytes of one stream that were written and not yet acknowledged."""
CHANNEL_SEND_MAX: Final = 32 * MIB
"""The same over all streams of a peer."""
CONGESTION_WINDOW_MAX: Final = 64 * MIB
"""More than the flow windows let through, so that it only stops a runaway number."""
PIECES_MAX: Final = 16_384
"""Pieces that wait for a gap before them, over all streams of a peer: 2.5 MB beside their bytes."""
PIECE_DROPS_MAX: Final = 65_536
"""Pieces dropped for want of room since the last progress; a peer that only makes gaps is cut."""
SPANS_MAX: Final = 16_384
"""Entries of the ledger of sent bursts: 3 MB."""
ACK_RANGES_MAX: Final = 64
"""Ranges in one acknowledgement: 512 bytes."""
LOST_RANGES_MAX: Final = 64
"""Ranges of numbers given up that are still watched for: a late one shows reordering."""
SKIPS_MAX: Final = 64
"""Numbers left out on purpose that are still watched for: acknowledging one is a lie."""
PACKET_THRESHOLD_MAX: Final = 256
"""Packets that may overtake one before it is lost, on a path that reorders."""
BURST_PACKETS_MAX: Final = 47
"""Packets of one burst: 64 KiB of 1,376 bytes, one system call."""
BURST_BYTES_MAX: Final = 65_507
"""Datagrams of one burst together: what one call with segmentation offload takes."""
CHANNEL_EVENTS_MAX: Final = 2_048
"""Events nobody took; with more the peer gets no leave to open streams."""
UDP_PAYLOAD_BASE: Final = 1_200
"""Every path carries UDP payloads of this size."""
UDP_PAYLOAD_MAX: Final = 1_472
"""The largest UDP payload that is probed for: Ethernet without IP options."""

# -- dht: what the node and its faces take
RECORD_NAME_MAX: Final = 64
"""Bytes of a record's name under its peer key."""
SIGNED_RECORD_MAX: Final = 2 * KIB
"""Bytes of a signed record as an application hands it in."""
RECORDS_MAX: Final = 10_000_000
"""The most records of others that a node may be told to hold."""
BOOTSTRAP_MAX: Final = 64
TESTNET_NODES_MAX: Final = 1_000
"""Nodes of one `molia testnet`, about 30 MB each."""
LOOKUP_STREAMS_MAX: Final = 64
"""Lookups that are watched at once."""
LOOKUP_EVENTS_MAX: Final = 10_000
"""Steps of one lookup that are shown."""

# -- dht: the node's shell
BOOTSTRAP_FILE_BYTES_MAX: Final = 64 * KIB
BOOTSTRAP_PLACES_MAX: Final = 8
"""Addresses that one name may stand for."""
CONTACTS_FILE_BYTES_MAX: Final = 4 * MIB
DHT_WRITES_MAX: Final = 1_024
"""Rows that one worker writes at once; a record that finds no room is refused."""
CHANGED_BLOBS_MAX: Final = 10_000
"""Blobs that came or went within half a second and are looked at for announcing."""
SHARED_CONTACTS_MAX: Final = 256
"""Contacts that a worker tells the others of at a time."""

# -- dht: records and messages
RECORD_VALUE_MAX: Final = 1_000
RECORD_SALT_MAX: Final = 64
"""Bytes of the name of a mutable record."""
RECORD_SIZE_MAX: Final = 1_144
"""A signed record with the longest value; in PUT, with cas, it takes all 1,156 of a datagram."""
RECORD_AHEAD_S: Final = 86_400
"""How far ahead a record or provider record may expire."""
CLOCK_SKEW_S: Final = 3_900
"""What the clocks of two nodes may differ by: an hour, and some seconds on the way."""
BLINDED_KEYS_MAX: Final = 4_096
"""Blinded keys that are remembered, for each takes 60 to 90 us; about 200 bytes each."""
PROVIDER_RECORD_SIZE_MAX: Final = 284
"""Four in ADD_PROVIDER take 1,148 bytes, in PROVIDERS 1,152."""
PROVIDERS_PER_MESSAGE_MAX: Final = 4
PROVIDER_HINTS_MAX: Final = 2
"""Addresses that a provider record names: one of each family."""
PROVIDERS_PER_LOC_MAX: Final = 64
PROVIDERS_OLD: Final = 48
"""Of these, how many go by the age of their continuous presence; the rest are the newest."""
PROVIDERS_CACHE_MAX: Final = 8
"""Of these, how many may only have it in a cache."""
PROVIDERS_PER_PREFIX_MAX: Final = 3
PROVIDERS_TOLD_MAX: Final = 32
"""Address prefixes of which a search tells providers so far: those that most holders know."""
PROVIDERS_OLDEST_TOLD: Final = 10
PROVIDERS_RANDOM_TOLD: Final = 10
QUOTA_PEERS_MAX: Final = 8_192
"""Peers whose writes are counted; about 200 bytes each, as for locations."""
QUOTA_LOCS_MAX: Final = 16_384
PEER_ROWS_BURST: Final = 20_000.0
"""What one peer may have us keep at once, in records of either kind."""
PEER_ROWS_PER_S: Final = 1.0
"""And how fast it regains that: 86,400 a day, the time that records live."""
LOC_WRITES_BURST: Final = 64.0
LOC_WRITES_PER_S: Final = 1.0
"""How often what lies at one location may change."""
PROVIDER_PAGES_MAX: Final = 16
DIGEST_ENTRIES_MAX: Final = 80
"""Entries of one DIGEST: 1,040 bytes."""
REGION_CURSOR_MAX: Final = 4_096
"""Contacts of a region that one asker may leave behind."""

# -- dht: the engine
DHT_ASK_TRIES: Final = 2
"""Of a PING or FIND_NODE: most who say nothing are gone, and others are asked meanwhile."""
DHT_ASKS_MAX: Final = 64
"""Requests of the DHT that are on their way."""
DHT_ASKS_WAITING_MAX: Final = 1_024
"""Requests that wait for their turn; more fail at once and are counted."""
DHT_KNOCKS_MAX: Final = 16
"""Requests to one stranger that wait for its first answer."""
DHT_LOOKUPS_MAX: Final = 256
DHT_STORES_MAX: Final = 1_024
"""Writes of rows that the owner has not reported yet; more are refused as if it were full."""
PROVIDERS_READ_MAX: Final = 1_024
"""Provider records that one search verifies: 60 ms."""
DHT_HINTS_MAX: Final = 32
"""Contacts that are pinged because they said they serve."""
DHT_PROVED_MAX: Final = 8_192
"""Contacts remembered as having answered; about 300 bytes each."""
DHT_UNPROVED_MAX: Final = 8_192
"""Hosts that never answered and were written to within a minute; beyond it none is."""
DHT_SEEDS_MAX: Final = 64
DHT_REMEMBERED_MAX: Final = 512
"""Contacts of a snapshot that are pinged at the next start."""
DHT_JOIN_BUCKETS_MAX: Final = 16
"""Buckets that one join fills by lookups."""
DHT_EFFECTS_MAX: Final = 16_384
"""Effects that the owner did not take; more are dropped and counted."""
DHT_RELAYERS_MAX: Final = 1_024
"""Peers whose relayed contacts are being judged."""
DHT_TOLD_MAX: Final = 2_048
"""Contacts of which the other workers were told lately."""
DHT_SEEN_MAX: Final = 64
"""Networks that told where they see this node."""
DHT_CLOCKS_MAX: Final = 64
"""Peers whose clocks are compared with ours."""
DHT_DIALS_MAX: Final = 16
"""Dial-backs that are passed on at once."""

# -- dht: lookups
LOOKUP_CANDIDATES_MAX: Final = 200
"""Nodes that a lookup thinks of asking, unless it is attacked."""
LOOKUP_PROBES_MAX: Final = 200
LOOKUP_ATTACKED_READ_PROBES_MAX: Final = 400
LOOKUP_ATTACKED_WRITE_PROBES_MAX: Final = 800
"""Requests of a lookup whose region holds more nodes than there can be honest ones."""
LOOKUP_REGION_MAX: Final = 1_000
"""Nodes in the region that an attacked lookup thinks of asking: 250 bytes each."""
LOOKUP_DEFERRED_MAX: Final = 800
"""Nodes put off, as two of their address prefix were taken: in the region; outside a tenth."""
LOOKUP_FLIGHT_MAX: Final = 32
"""Requests of one lookup that have not been answered and are not late."""
LOOKUP_STEPS_MAX: Final = 4_096
"""Steps of a traced lookup that wait to be taken; more are dropped and counted."""
SIZE_ESTIMATES_MAX: Final = 32
"""Estimates of the network's size of which the median is believed."""

# -- dht: the routing table
BUCKET_SIZE_MAX: Final = 128
TABLE_ENTRIES_MAX: Final = 4_096
"""Contacts of one table with its caches; about 400 bytes each, so 1.6 MB."""
TABLE_CELLS_MAX: Final = 1_024
"""Parts of the space whose nearest contacts are at hand; about 3 kB each."""
GRAVES_MAX: Final = 512
"""Dead contacts that are remembered."""
SNAPSHOT_SIZE_MAX: Final = 256 * KIB
"""A table on disk: all its contacts and graves, of IPv6, take 235 kB."""

# -- dht: duties
OWN_RECORDS_MAX: Final = 10_000
"""Mutable records that a node keeps alive: 0.4 puts a second."""
OWN_RECORD_NAME_MAX: Final = 96
"""A peer key and a salt."""
REPUBLISH_FLIGHT_MAX: Final = 8
"""Own records that are put at once."""
REPUBLISH_GAP_S: Final = 0.25
"""Between two puts after a burst: 10,000 that are late together take 42 minutes."""
SWEEP_KEYS_PER_WALK: Final = 4_096
"""Provider records of one walk; a region with more is walked again for the rest."""
SWEEP_NEW_MAX: Final = 4_096
"""New keys that wait for a walk of their own; with more the whole sweep hurries."""
SWEEP_NEW_SAVED_MAX: Final = 256
DIGEST_PAGE: Final = 256
DIGEST_PAGES_MAX: Final = 6
"""Pages of locations that are read for one DIGEST: 1 ms each."""
DIGESTS_BURST: Final = 64.0
DIGESTS_PER_S: Final = 2.0
"""DIGESTs that one neighbour gets an answer to, and all together who are not verified."""
REPAIR_NEIGHBOURS_MAX: Final = 256
"""Nodes near us that are told what we hold."""
REPAIR_JOBS_MAX: Final = 64
"""Neighbours that are being told at once."""
REPAIR_ASKS_MAX: Final = 8
"""Neighbours that a new node asks for its range, one after the other."""
REPAIR_CLAIMS_MAX: Final = 4_096
"""Rows on their way to us; about 150 bytes each."""
REPAIR_PUSHES_MAX: Final = 4
"""Rows on their way to one neighbour."""
REPAIR_SCAN_MAX: Final = 512
"""Rows that one step of telling looks at."""

assert DATA_SHARES * BLOCK_SIZE_MAX > RAW_SIZE_STOP, "one stripe holds the smallest manifest blob"
assert VALUE_SIZE_MAX <= BATCH_BYTES_MAX <= WRITE_QUEUE_BYTES_MAX
assert BLOCK_SIZE_MAX <= VALUE_SIZE_MAX
assert RAW_SIZE_STOP <= VALUE_SIZE_MAX
assert SEGMENT_SIZE_MAX <= 2**32, "an index entry holds a 32-bit offset"
assert STREAM_WINDOW_START <= STREAM_WINDOW_MAX <= CHANNEL_WINDOW_MAX
assert CHANNEL_WINDOW_MAX < CONGESTION_WINDOW_MAX
