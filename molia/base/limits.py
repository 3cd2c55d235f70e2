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

# -- store
SHARDS_MAX: Final = 64
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
INDEX_MAP_BYTES: Final = 256 * GIB
DELTA_MAP_BYTES: Final = 4 * GIB
"""What other processes see before a checkpoint; 100,000 keys take about 10 MiB of it."""
LMDB_READERS_MAX: Final = 512
SEGMENT_FILES_OPEN_MAX: Final = 256
SCAN_ROWS_MAX: Final = 10_000

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

# -- workers
WORKERS_MAX: Final = 64
"""Processes of a node; each low byte of a receiver index names one."""
UDP_ADDRESSES_MAX: Final = 16
"""UDP addresses of a node; each costs a socket a worker."""
BUFFER_WORKER_MIN_BYTES: Final = 24 * MIB
"""What a worker may hold of stripes at least: four of them, or one put crawls."""
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

assert DATA_SHARES * BLOCK_SIZE_MAX > RAW_SIZE_STOP, "one stripe holds the smallest manifest blob"
assert VALUE_SIZE_MAX <= BATCH_BYTES_MAX <= WRITE_QUEUE_BYTES_MAX
assert BLOCK_SIZE_MAX <= VALUE_SIZE_MAX
assert RAW_SIZE_STOP <= VALUE_SIZE_MAX
assert SEGMENT_SIZE_MAX <= 2**32, "an index entry holds a 32-bit offset"
